//! The journal of the recorder: what a process did to its files, in order.

use anyhow::{Context, bail};

/// One file or directory, whatever its names. The first is the recorded root.
pub(crate) type ObjectId = u64;

/// The recorded root.
pub(crate) const ROOT: ObjectId = 0;

const HEADER: usize = 24;

/// One thing that was done; see `power-cut/recorder.c`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Record<'j> {
    Created { object: ObjectId, is_directory: bool },
    Written { object: ObjectId, offset: usize, data: &'j [u8] },
    Resized { object: ObjectId, size: usize },
    Synced { object: ObjectId },
    Linked { directory: ObjectId, name: &'j str, object: ObjectId, batch: u64 },
    Unlinked { directory: ObjectId, name: &'j str, batch: u64 },
    Marked { text: &'j str },
}

/// Reads a whole journal.
pub(crate) fn parse(journal: &[u8]) -> anyhow::Result<Vec<Record<'_>>> {
    let mut records = Vec::new();
    let mut rest = journal;
    while !rest.is_empty() {
        let (header, after) = rest.split_at_checked(HEADER).context("the journal ends in a header")?;
        let length = usize::try_from(u32::from_le_bytes(header[4..8].try_into()?))?;
        let object = u64::from_le_bytes(header[8..16].try_into()?);
        let offset = u64::from_le_bytes(header[16..24].try_into()?);
        let (data, after) = after.split_at_checked(length).context("the journal ends in a record")?;
        rest = after;
        records.push(match header[0] {
            b'C' => Record::Created { object, is_directory: offset == 1 },
            b'W' => Record::Written { object, offset: usize::try_from(offset)?, data },
            b'T' => Record::Resized { object, size: usize::try_from(offset)? },
            b'S' => Record::Synced { object },
            b'L' => {
                let (batch, name) = batch_and_name(data)?;
                Record::Linked { directory: offset, name, object, batch }
            }
            b'U' => {
                let (batch, name) = batch_and_name(data)?;
                Record::Unlinked { directory: offset, name, batch }
            }
            b'M' => Record::Marked { text: std::str::from_utf8(data)? },
            kind => bail!("the journal has a record of kind {kind}"),
        });
    }
    Ok(records)
}

fn batch_and_name(data: &[u8]) -> anyhow::Result<(u64, &str)> {
    let (batch, name) = data.split_at_checked(8).context("a name is too short")?;
    Ok((u64::from_le_bytes(batch.try_into()?), std::str::from_utf8(name)?))
}
