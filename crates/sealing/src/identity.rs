//! The identity of a sealed field: which row and column it belongs to, and whose it is.

/// Where a sealed field stands. It is authenticated with the record and never stored in it, so a field that is moved
/// anywhere else, or whose row changes in any of these, does not open.
///
/// Put in what never changes while the field lives; an absent part and an empty one are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordIdentity<'a> {
    /// The space.
    pub space: &'a str,
    /// The table.
    pub table: &'static str,
    /// The column.
    pub column: &'static str,
    /// The row's id.
    pub row: &'a str,
    /// Whose it is.
    pub owner: Option<&'a str>,
    /// Which of the owner's accounts.
    pub label: Option<&'a str>,
    /// The connector.
    pub connector: Option<&'a str>,
    /// The generation of the token set.
    pub generation: Option<i64>,
}

impl RecordIdentity<'_> {
    /// Calls `body` with the parts of the associated data, in the order that the format fixes.
    pub(crate) fn with_parts<T>(&self, instance: &str, body: impl FnOnce(&[&[u8]]) -> T) -> T {
        let generation = self.generation.map(i64::to_be_bytes);
        body(&[
            instance.as_bytes(),
            self.space.as_bytes(),
            self.table.as_bytes(),
            self.column.as_bytes(),
            self.row.as_bytes(),
            self.owner.unwrap_or_default().as_bytes(),
            self.label.unwrap_or_default().as_bytes(),
            self.connector.unwrap_or_default().as_bytes(),
            generation.as_ref().map_or(&[], <[u8; 8]>::as_slice),
        ])
    }
}
