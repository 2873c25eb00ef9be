//! What a disk may hold after a power cut.
//!
//! The model, on the cautious side of what file systems and drives do:
//!
//! - What was written to a file, and its size, is safe once that file was synced. A file's name is safe once its directory
//!   was synced: syncing the file alone does not keep the name.
//! - Of what came after, any part may be there: every sector of 512 bytes has, on its own, any of the contents it had since
//!   the sync, or damage; the file has any of the lengths it had. Later writes may be there without earlier ones.
//! - Names change all or nothing where one call changed them together, as a rename does; else each on its own.
//! - Damage stays within the bytes that were being written: neighbours in the same sector that nobody wrote keep what they
//!   had. SQLite relies on this, too (its "powersafe overwrite").

use std::{collections::BTreeMap, ops::Range, path::PathBuf};

use super::journal::{ObjectId, ROOT, Record};
use crate::chance::Chance;

const SECTOR: usize = 512;

/// What becomes of that which was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Manner {
    /// All of it is gone.
    Dropped,
    /// All of it is there, as after the end of a process.
    Kept,
    /// Each file has its first changes, and of the last of these only the first sectors.
    Torn,
    /// Each sector has one of its contents.
    Reordered,
    /// The same, and some hold rubbish where they were written.
    Damaged,
}

impl Manner {
    pub(crate) const ALL: [Self; 5] = [Self::Dropped, Self::Kept, Self::Torn, Self::Reordered, Self::Damaged];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Kept => "kept",
            Self::Torn => "torn",
            Self::Reordered => "reordered",
            Self::Damaged => "damaged",
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Change<'j> {
    Written { offset: usize, data: &'j [u8] },
    Resized(usize),
}

#[derive(Debug, Clone, Copy)]
struct NameChange<'j> {
    name: &'j str,
    /// What it names from now on.
    object: Option<ObjectId>,
    batch: u64,
}

#[derive(Debug)]
enum Object<'j> {
    File { durable: Vec<u8>, pending: Vec<Change<'j>> },
    Directory { durable: BTreeMap<&'j str, ObjectId>, pending: Vec<NameChange<'j>> },
}

/// The files, as far as they are safe, and what was done to them since.
#[derive(Debug, Default)]
pub(crate) struct Disk<'j> {
    objects: BTreeMap<ObjectId, Object<'j>>,
}

/// What is found after the cut, by path below the root.
#[derive(Debug, Default)]
pub(crate) struct Image {
    pub(crate) directories: Vec<PathBuf>,
    pub(crate) files: Vec<(PathBuf, Vec<u8>)>,
}

impl<'j> Disk<'j> {
    /// Takes one more record into account.
    pub(crate) fn apply(&mut self, record: Record<'j>) {
        match record {
            Record::Created { object, is_directory } => {
                let new = if is_directory {
                    Object::Directory { durable: BTreeMap::new(), pending: Vec::new() }
                } else {
                    Object::File { durable: Vec::new(), pending: Vec::new() }
                };
                self.objects.insert(object, new);
            }
            Record::Written { object, offset, data } => self.change(object, Change::Written { offset, data }),
            Record::Resized { object, size } => self.change(object, Change::Resized(size)),
            Record::Linked { directory, name, object, batch } => {
                self.change_name(directory, NameChange { name, object: Some(object), batch });
            }
            Record::Unlinked { directory, name, batch } => {
                self.change_name(directory, NameChange { name, object: None, batch });
            }
            Record::Synced { object } => match self.objects.get_mut(&object) {
                Some(Object::File { durable, pending }) => pending.drain(..).for_each(|change| redo(durable, change)),
                Some(Object::Directory { durable, pending }) => {
                    pending.drain(..).for_each(|change| rename(durable, change));
                }
                None => {}
            },
            Record::Marked { .. } => {}
        }
    }

    fn change(&mut self, object: ObjectId, change: Change<'j>) {
        if let Some(Object::File { pending, .. }) = self.objects.get_mut(&object) {
            pending.push(change);
        }
    }

    fn change_name(&mut self, directory: ObjectId, change: NameChange<'j>) {
        if let Some(Object::Directory { pending, .. }) = self.objects.get_mut(&directory) {
            pending.push(change);
        }
    }

    /// How many bytes were written and are not safe.
    pub(crate) fn unsynced(&self) -> usize {
        let of_change = |change: &Change<'_>| match change {
            Change::Written { data, .. } => data.len(),
            Change::Resized(_) => 0,
        };
        self.objects
            .values()
            .map(|object| match object {
                Object::File { pending, .. } => pending.iter().map(of_change).sum(),
                Object::Directory { .. } => 0,
            })
            .sum()
    }

    /// Cuts the power.
    pub(crate) fn cut(&self, manner: Manner, chance: &mut Chance) -> Image {
        // The share that stays differs from cut to cut: of many sectors, half each is as good as none.
        let keep = chance.one_of(&[3, 50, 97]).copied().unwrap_or(50);
        let mut image = Image::default();
        self.list(ROOT, &PathBuf::new(), manner, keep, chance, &mut image);
        image
    }

    fn list(
        &self,
        directory: ObjectId,
        path: &std::path::Path,
        manner: Manner,
        keep: u64,
        chance: &mut Chance,
        image: &mut Image,
    ) {
        let Some(Object::Directory { durable, pending }) = self.objects.get(&directory) else { return };
        for (name, object) in names_after(durable, pending, manner, chance) {
            let path = path.join(name);
            match self.objects.get(&object) {
                Some(Object::Directory { .. }) => {
                    image.directories.push(path.clone());
                    self.list(object, &path, manner, keep, chance, image);
                }
                Some(Object::File { durable, pending }) => {
                    image.files.push((path, content_after(durable, pending, manner, keep, chance)));
                }
                None => {}
            }
        }
    }
}

fn redo(content: &mut Vec<u8>, change: Change<'_>) {
    match change {
        Change::Written { offset, data } => {
            let end = offset + data.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[offset..end].copy_from_slice(data);
        }
        Change::Resized(size) => content.resize(size, 0),
    }
}

fn rename<'j>(names: &mut BTreeMap<&'j str, ObjectId>, change: NameChange<'j>) {
    match change.object {
        Some(object) => names.insert(change.name, object),
        None => names.remove(change.name),
    };
}

fn names_after<'j>(
    durable: &BTreeMap<&'j str, ObjectId>,
    pending: &[NameChange<'j>],
    manner: Manner,
    chance: &mut Chance,
) -> BTreeMap<&'j str, ObjectId> {
    let mut names = durable.clone();
    let last_torn = pending.get(chance.index(pending.len())).map_or(0, |change| change.batch);
    let mut decided: Option<(u64, bool)> = None;
    for change in pending {
        let kept = match decided {
            Some((batch, kept)) if batch == change.batch => kept,
            _ => match manner {
                Manner::Dropped => false,
                Manner::Kept => true,
                Manner::Torn => change.batch < last_torn,
                Manner::Reordered | Manner::Damaged => chance.percent(50),
            },
        };
        decided = Some((change.batch, kept));
        if kept {
            rename(&mut names, *change);
        }
    }
    names
}

fn content_after(durable: &[u8], pending: &[Change<'_>], manner: Manner, keep: u64, chance: &mut Chance) -> Vec<u8> {
    let mut content = durable.to_vec();
    match manner {
        Manner::Dropped => {}
        Manner::Kept => pending.iter().for_each(|change| redo(&mut content, *change)),
        Manner::Torn => {
            let whole = chance.index(pending.len());
            pending.iter().take(whole).for_each(|change| redo(&mut content, *change));
            if let Some(Change::Written { offset, data }) = pending.get(whole) {
                // Torn where sectors end, not where the write began.
                let sectors = chance.index(data.len() / SECTOR + 2);
                let end = ((offset / SECTOR + sectors) * SECTOR).clamp(*offset, offset + data.len());
                redo(&mut content, Change::Written { offset: *offset, data: &data[..end - offset] });
            }
        }
        Manner::Reordered => scatter(&mut content, pending, keep, 0, chance),
        Manner::Damaged => scatter(&mut content, pending, keep, 20, chance),
    }
    content
}

/// The contents that one sector had since the sync.
#[derive(Debug)]
struct Sector {
    versions: Vec<[u8; SECTOR]>,
    /// What was written of it.
    touched: Option<Range<usize>>,
}

fn read_sector(content: &[u8], number: usize) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    let start = (number * SECTOR).min(content.len());
    let end = (start + SECTOR).min(content.len());
    sector[..end - start].copy_from_slice(&content[start..end]);
    sector
}

/// Gives every sector one of its contents and the file one of its lengths.
fn scatter(content: &mut Vec<u8>, pending: &[Change<'_>], keep: u64, damage: u64, chance: &mut Chance) {
    let mut sizes = vec![content.len()];
    let mut sectors: BTreeMap<usize, Sector> = BTreeMap::new();
    let mut current = content.clone();
    for change in pending {
        let bytes = match *change {
            Change::Written { offset, data } => offset..offset + data.len(),
            Change::Resized(size) => size.min(current.len())..current.len(),
        };
        let numbers = if bytes.is_empty() { 0..0 } else { bytes.start / SECTOR..bytes.end.div_ceil(SECTOR) };
        for number in numbers.clone() {
            sectors
                .entry(number)
                .or_insert_with(|| Sector { versions: vec![read_sector(&current, number)], touched: None });
        }
        redo(&mut current, *change);
        sizes.push(current.len());
        for number in numbers {
            let Some(sector) = sectors.get_mut(&number) else { continue };
            let start = bytes.start.saturating_sub(number * SECTOR);
            let end = (bytes.end - number * SECTOR).min(SECTOR);
            sector.touched = Some(match sector.touched.take() {
                Some(touched) => touched.start.min(start)..touched.end.max(end),
                None => start..end,
            });
            sector.versions.push(read_sector(&current, number));
        }
    }
    let size = if chance.percent(keep) { sizes.last() } else { chance.one_of(&sizes) };
    let size = size.copied().unwrap_or(content.len());
    content.resize(size, 0);
    for (number, sector) in sectors {
        let kept = if chance.percent(keep) { sector.versions.last() } else { chance.one_of(&sector.versions) };
        let Some(mut kept) = kept.copied() else { continue };
        if chance.percent(damage)
            && let Some(touched) = sector.touched
        {
            let touched = &mut kept[touched];
            if chance.percent(50) { touched.fill(0) } else { chance.fill(touched) }
        }
        let start = number * SECTOR;
        if start < size {
            let end = (start + SECTOR).min(size);
            content[start..end].copy_from_slice(&kept[..end - start]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: ObjectId = 1;

    fn disk<'j>(records: &[Record<'j>]) -> Disk<'j> {
        let mut disk = Disk::default();
        disk.apply(Record::Created { object: ROOT, is_directory: true });
        disk.apply(Record::Created { object: FILE, is_directory: false });
        disk.apply(Record::Linked { directory: ROOT, name: "file", object: FILE, batch: 1 });
        for record in records {
            disk.apply(*record);
        }
        disk
    }

    fn write(offset: usize, data: &[u8]) -> Record<'_> {
        Record::Written { object: FILE, offset, data }
    }

    const SYNC: Record<'_> = Record::Synced { object: FILE };
    const SYNC_NAMES: Record<'_> = Record::Synced { object: ROOT };

    #[test]
    fn what_was_synced_is_there_however_the_rest_ends() {
        let old = [1; 2_000];
        let new = [2; 1_000];
        let disk = disk(&[write(0, &old), SYNC, SYNC_NAMES, write(700, &new)]);
        let mut chance = Chance::new(1);
        for manner in Manner::ALL {
            for _ in 0..50 {
                let image = disk.cut(manner, &mut chance);
                let content = &image.files[0].1;
                assert_eq!(content.len(), 2_000, "{manner:?}");
                assert!(content[..700].iter().chain(&content[1_700..]).all(|byte| *byte == 1), "{manner:?}");
            }
        }
    }

    #[test]
    fn what_was_not_synced_ends_in_every_way() {
        let new = [2; 1_024];
        let disk = disk(&[SYNC_NAMES, write(0, &new)]);
        let mut chance = Chance::new(1);
        let mut seen = std::collections::BTreeSet::new();
        for manner in Manner::ALL {
            for _ in 0..200 {
                let content = disk.cut(manner, &mut chance).files.remove(0).1;
                let half = |half: Option<&[u8]>| match half {
                    None => "absent",
                    Some(half) if half.iter().all(|byte| *byte == 2) => "new",
                    Some(half) if half.iter().all(|byte| *byte == 0) => "zero",
                    Some(_) => "rubbish",
                };
                seen.insert((half(content.get(..512)), half(content.get(512..1_024))));
            }
        }
        for expected in [("absent", "absent"), ("new", "new"), ("zero", "new"), ("new", "zero"), ("new", "rubbish")] {
            assert!(seen.contains(&expected), "{expected:?} is not among {seen:?}");
        }
    }

    #[test]
    fn a_name_is_safe_with_its_directory_only() {
        let disk_of = |records: &[Record<'static>]| disk(records).cut(Manner::Dropped, &mut Chance::new(1));
        assert_eq!(disk_of(&[write(0, b"x"), SYNC]).files.len(), 0);
        assert_eq!(disk_of(&[write(0, b"x"), SYNC, SYNC_NAMES]).files.len(), 1);
    }

    #[test]
    fn a_rename_is_there_whole_or_not_at_all() {
        let renamed = [
            Record::Linked { directory: ROOT, name: "renamed", object: FILE, batch: 2 },
            Record::Unlinked { directory: ROOT, name: "file", batch: 2 },
        ];
        let disk = disk(&[SYNC_NAMES, renamed[0], renamed[1]]);
        let mut chance = Chance::new(1);
        for manner in Manner::ALL {
            for _ in 0..50 {
                assert_eq!(disk.cut(manner, &mut chance).files.len(), 1, "{manner:?}");
            }
        }
    }
}
