//! A journal as it lies, for the offline check: nothing is written.

use std::path::Path;

use bytes::Bytes;

use super::super::StoreError;
use super::super::entries::{AllEntries, Entries, Visit};
use super::scan::{read_bytes, scan};
use super::tables::{Location, Tables};
use super::volume::{Access, Files};

/// See the module docs.
#[derive(Debug)]
pub(in super::super) struct Image {
    files: Files,
    tables: Tables,
}

impl Image {
    /// Reads a journal that nobody uses.
    pub fn read(database: &Path) -> Result<Self, StoreError> {
        let files = Files::open(database, Access::Read)?;
        let tables = scan(&files, &files.secret())?.tables;
        Ok(Self { files, tables })
    }

    fn load(&self, at: Location) -> Result<Bytes, StoreError> {
        read_bytes(&self.files, at.spot.segment, at.offset(), at.bytes)
            .map_err(|error| StoreError::io("reading content", &error))
    }
}

impl Entries for Image {
    fn scan_control(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.tables.entries().into_iter().try_for_each(|(key, value)| visit(key, value))
    }

    fn control(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.tables.entry(key).map(Bytes::copy_from_slice))
    }

    fn content(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.tables.content(key).map(|at| self.load(at)).transpose()
    }
}

impl AllEntries for Image {
    fn scan_content(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.tables.contents().try_for_each(|(key, at)| visit(key, &self.load(at)?))
    }
}
