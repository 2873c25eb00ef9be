//! Associated data: what a record is authenticated together with and never stores.

/// What is sealed; a record of one domain never opens in another.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Domain {
    /// A secret in a row.
    Record,
    /// Proof that a data key is the right one.
    Canary,
    /// A data key, sealed by a key-encryption key.
    DataKey,
}

impl Domain {
    pub(crate) fn label(self) -> &'static [u8] {
        match self {
            Self::Record => b"valetkey record",
            Self::Canary => b"valetkey canary",
            Self::DataKey => b"valetkey data key",
        }
    }
}

/// Concatenates `domain`, `header` and `parts`, each behind its tag and its length, so that no two different lists
/// of parts give the same bytes.
///
/// A part's tag is its place in the list, from 1; its length is four bytes, big endian. What the parts mean is the
/// domain's to say: every part has its place there, and an absent one keeps it, with length zero.
pub(crate) fn associated_data(domain: Domain, header: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let lengths: usize = parts.iter().map(|part| part.len()).sum();
    let fixed = domain.label().len() + header.len() + (parts.len() + 2) * 5;
    let mut out = Vec::with_capacity(fixed + lengths);
    let all = [domain.label(), header];
    for (tag, part) in (1_u8..).zip(all.iter().chain(parts)) {
        out.push(tag);
        // A part over 4 GiB cannot come from a row; its length saturates, and sealing and opening still agree.
        out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_cannot_wander_from_one_part_into_the_next() {
        let left = associated_data(Domain::Record, b"h", &[b"ab", b"c"]);
        let right = associated_data(Domain::Record, b"h", &[b"a", b"bc"]);
        assert_ne!(left, right);
    }

    #[test]
    fn an_absent_part_keeps_its_place() {
        let left = associated_data(Domain::Record, b"h", &[b"a", b""]);
        let right = associated_data(Domain::Record, b"h", &[b"", b"a"]);
        assert_ne!(left, right);
        assert_ne!(left, associated_data(Domain::Record, b"h", &[b"a"]));
    }

    #[test]
    fn the_encoding_is_tag_length_and_bytes() {
        let label = Domain::Record.label();
        let mut expected = vec![1, 0, 0, 0, u8::try_from(label.len()).unwrap()];
        expected.extend_from_slice(label);
        expected.extend_from_slice(&[2, 0, 0, 0, 1, b'h', 3, 0, 0, 0, 2, b'a', b'b', 4, 0, 0, 0, 0]);
        assert_eq!(associated_data(Domain::Record, b"h", &[b"ab", b""]), expected);
    }
}
