//! What is searched for: secrets, in every form that they can take inside of something else, whole or in pieces.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    path::Path,
};

use data_encoding::{BASE64, HEXLOWER, HEXUPPER};

/// The shortest piece of a secret that counts as one.
const PIECE: usize = 16;

/// The same in hexadecimal: twelve bytes.
const HEX_PIECE: usize = 24;

/// The shortest secret.
pub(crate) const LEAST: usize = 12;

/// A piece of sixteen characters holds one of the blocks of eight that a form is cut into, wherever it begins.
const BLOCK: usize = 8;

/// Bits of the filter before the table of blocks.
const FILTER_BITS: u32 = 22;

/// Secrets to be found in anything.
#[derive(Debug)]
pub struct Canaries {
    forms: Vec<Form>,
    /// Where each block stands: the form, and how far from its beginning.
    blocks: HashMap<u64, Vec<(u32, u32)>>,
    filter: Vec<u64>,
    secrets: HashSet<String>,
}

#[derive(Debug)]
struct Form {
    text: Vec<u8>,
    what: String,
    /// How much of it in a row is a hit.
    least: usize,
}

impl Default for Canaries {
    fn default() -> Self {
        let filter = vec![0; 1 << (FILTER_BITS - 6)];
        Self { forms: Vec::new(), blocks: HashMap::new(), filter, secrets: HashSet::new() }
    }
}

impl Canaries {
    /// Searches for this secret too. Of an API key only what follows its id is one.
    pub fn plant(&mut self, secret: &str, what: &str) {
        let secret = match secret.strip_prefix("vk_") {
            Some(key) => key.rsplit('_').next().unwrap_or_default(),
            None => secret,
        };
        assert!(secret.len() >= LEAST, "{what} {secret:?} is too short to be found for sure");
        if !self.secrets.insert(secret.to_owned()) {
            return;
        }
        for (text, least) in forms(secret) {
            let number = u32::try_from(self.forms.len()).expect("few enough");
            // One that is shorter than a piece is found as a whole.
            let least = least.min(text.len());
            for start in (0..=text.len() - BLOCK).step_by(if text.len() < PIECE { 1 } else { BLOCK }) {
                let block = block(&text.as_bytes()[start..]);
                self.filter[slot(block) / 64] |= 1 << (slot(block) % 64);
                self.blocks.entry(block).or_default().push((number, u32::try_from(start).expect("short")));
            }
            self.forms.push(Form { text: text.into_bytes(), what: what.to_owned(), least });
        }
    }

    /// How many secrets are searched for.
    pub fn len(&self) -> usize {
        self.secrets.len()
    }

    /// Whether there is nothing to search for.
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// What these secrets are.
    pub fn kinds(&self) -> BTreeSet<&str> {
        self.forms.iter().map(|form| form.what.as_str()).collect()
    }

    /// What of them is in these bytes: what it is, how much of it, and where.
    pub fn find(&self, bytes: &[u8]) -> Vec<String> {
        let mut hits = BTreeSet::new();
        let mut rolling = 0;
        for (end, byte) in bytes.iter().enumerate() {
            rolling = (rolling >> 8) | (u64::from(*byte) << 56);
            if self.filter[slot(rolling) / 64] & (1 << (slot(rolling) % 64)) == 0 || end + 1 < BLOCK {
                continue;
            }
            for (form, start) in self.blocks.get(&rolling).into_iter().flatten() {
                let (form, start) = (&self.forms[*form as usize], *start as usize);
                let at = end + 1 - BLOCK;
                let before = shared(form.text[..start].iter().rev(), bytes[..at].iter().rev());
                let after = shared(form.text[start..].iter(), bytes[at..].iter());
                if before + after >= form.least {
                    hits.insert(format!("{} of {} characters of {}", before + after, form.text.len(), form.what));
                }
            }
        }
        hits.into_iter().collect()
    }

    /// What of them is in what a server stored: in the files of its folder, and in these values of tables.
    pub fn find_stored(&self, folder: &Path, rows: &[(String, Vec<u8>)]) -> Vec<(String, String)> {
        let mut hits = self.find_in_files(folder);
        for (table, value) in rows {
            hits.extend(self.find(value).into_iter().map(|hit| (format!("table {table}"), hit)));
        }
        hits
    }

    /// What of them is in the files of a folder and of those below: the file's name and the hit.
    pub fn find_in_files(&self, folder: &Path) -> Vec<(String, String)> {
        let mut hits = Vec::new();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                hits.extend(self.find_in_files(&path));
            } else if path.is_file()
                && let Ok(bytes) = fs::read(&path)
            {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                hits.extend(self.find(&bytes).into_iter().map(|hit| (name.clone(), hit)));
            }
        }
        hits
    }
}

/// How many are alike from the beginning on.
fn shared<'a>(left: impl Iterator<Item = &'a u8>, right: impl Iterator<Item = &'a u8>) -> usize {
    left.zip(right).take_while(|(left, right)| left == right).count()
}

fn block(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..BLOCK].try_into().expect("long enough"))
}

fn slot(block: u64) -> usize {
    let mixed = block.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - FILTER_BITS);
    usize::try_from(mixed).expect("few bits")
}

/// The ways in which a text can be hidden in another one: as it is; inside of something that was base64 encoded, which
/// depends on where it begins there; in a URL; and in hexadecimal. With each, how much of it in a row is a hit.
fn forms(secret: &str) -> Vec<(String, usize)> {
    let mut forms = vec![
        (secret.to_owned(), PIECE),
        (url::form_urlencoded::byte_serialize(secret.as_bytes()).collect(), PIECE),
        (HEXLOWER.encode(secret.as_bytes()), HEX_PIECE),
        (HEXUPPER.encode(secret.as_bytes()), HEX_PIECE),
    ];
    for before in 0..3 {
        let padded = format!("{}{secret}", "\0".repeat(before));
        let encoded = BASE64.encode(padded.as_bytes());
        // What depends on the neighbours is cut off at both ends.
        let core = &encoded[(before * 8).div_ceil(6)..(padded.len() * 8) / 6];
        forms.push((core.to_owned(), PIECE));
        forms.push((core.replace('+', "-").replace('/', "_"), PIECE));
    }
    forms.sort();
    forms.dedup();
    forms
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;

    use super::*;

    const SECRET: &str = "sbx_rt_Zm9v-YmFy_1234567890+abcdefgh/ij=k";

    fn found(text: &str) -> bool {
        let mut canaries = Canaries::default();
        canaries.plant(SECRET, "a token");
        !canaries.find(text.as_bytes()).is_empty()
    }

    #[test]
    fn a_secret_is_found_in_each_form_wherever_it_begins() {
        for before in ["", "x", "xy", "xyz", "client-1:"] {
            for after in ["", ":", "more"] {
                let inside = format!("{before}{SECRET}{after}");
                assert!(found(&inside));
                assert!(found(&BASE64.encode(inside.as_bytes())), "{inside}");
                assert!(found(&BASE64URL_NOPAD.encode(inside.as_bytes())), "{inside}");
                assert!(found(&HEXLOWER.encode(inside.as_bytes())), "{inside}");
                assert!(found(&HEXUPPER.encode(inside.as_bytes())), "{inside}");
                let in_url: String = url::form_urlencoded::byte_serialize(inside.as_bytes()).collect();
                assert!(found(&format!("?token={in_url}")), "{inside}");
            }
        }
    }

    #[test]
    fn every_piece_of_sixteen_characters_is_found_and_none_of_fifteen() {
        for start in 0..=SECRET.len() - PIECE {
            let piece = &SECRET[start..start + PIECE];
            assert!(found(&format!("…{piece}…")), "{piece}");
            assert!(!found(&format!("…{}…", &piece[1..])), "{piece}");
        }
        let encoded = HEXLOWER.encode(SECRET.as_bytes());
        for start in 0..=encoded.len() - HEX_PIECE {
            assert!(found(&encoded[start..start + HEX_PIECE]));
            assert!(!found(&encoded[start..start + HEX_PIECE - 1]));
        }
        let encoded = BASE64.encode(SECRET.as_bytes());
        for start in 0..encoded.len() - PIECE - 4 {
            assert!(found(&encoded[start..start + PIECE]), "{start}");
        }
    }

    #[test]
    fn the_id_of_a_key_is_no_secret() {
        let mut canaries = Canaries::default();
        canaries.plant("vk_06bc4jm2cg1hf0c9q2m8r5vk3o_0123456789abcdefghij", "a key");
        assert_eq!(canaries.find(b"key_06bc4jm2cg1hf0c9q2m8r5vk3o"), Vec::<String>::new());
        assert_eq!(canaries.find(b"0123456789abcdef").len(), 1);
    }

    #[test]
    fn a_short_secret_is_found_as_a_whole() {
        let mut canaries = Canaries::default();
        canaries.plant("thirteen-long", "a word");
        assert_eq!(canaries.find(b"a thirteen-long word").len(), 1);
        assert_eq!(canaries.find(b"a thirteen-lon").len(), 0);
    }

    #[test]
    fn files_are_searched_in_folders_below_too() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("below")).expect("a folder");
        let bytes = [&[0xff, 0][..], &SECRET.as_bytes()[3..30], &[0xfe]].concat();
        fs::write(folder.path().join("below/valetkey.db-wal"), bytes).expect("a file");
        let mut canaries = Canaries::default();
        canaries.plant(SECRET, "a token");
        let hits = canaries.find_in_files(folder.path());
        assert!(
            hits.contains(&("valetkey.db-wal".to_owned(), "27 of 41 characters of a token".to_owned())),
            "{hits:?}"
        );
    }
}
