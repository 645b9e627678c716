//! The bytes of one file, sector by sector: those a reader sees, and those on the platter.

use std::sync::Arc;

/// What reaches the platter whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// See the module docs. Clones share what neither changes.
#[derive(Clone, Debug, Default)]
pub struct Bytes {
    live: Arc<Vec<u8>>,
    safe: Arc<Vec<u8>>,
    /// One per sector of `live`: it differs from `safe`, and the next sync writes it.
    dirty: Vec<bool>,
}

impl Bytes {
    pub fn len(&self) -> u64 {
        self.live.len() as u64
    }

    pub fn read(&self, offset: usize, length: usize) -> &[u8] {
        let start = offset.min(self.live.len());
        &self.live[start..start.saturating_add(length).min(self.live.len())]
    }

    pub fn write(&mut self, offset: usize, data: &[u8]) {
        let (before, end) = (self.live.len(), offset + data.len());
        let live = Arc::make_mut(&mut self.live);
        if before < end {
            live.resize(end, 0);
        }
        live[offset..end].copy_from_slice(data);
        self.mark(offset.min(before)..end);
    }

    pub fn truncate(&mut self, length: usize) {
        let before = self.live.len();
        Arc::make_mut(&mut self.live).resize(length, 0);
        self.dirty.truncate(length.div_ceil(SECTOR_BYTES));
        self.mark(before.min(length)..length);
    }

    /// Longer, by zeros that need not be written.
    pub fn extend(&mut self, length: usize) {
        let longer = length.max(self.live.len());
        Arc::make_mut(&mut self.live).resize(longer, 0);
        self.dirty.resize(self.live.len().div_ceil(SECTOR_BYTES), false);
    }

    fn mark(&mut self, range: std::ops::Range<usize>) {
        self.dirty.resize(self.live.len().div_ceil(SECTOR_BYTES), false);
        let sectors = range.start / SECTOR_BYTES..range.end.div_ceil(SECTOR_BYTES);
        self.dirty[sectors].fill(true);
    }

    /// What was written reaches the platter.
    pub fn sync(&mut self) {
        let all: Vec<usize> = self.dirty_sectors();
        self.write_out(&all);
        if self.safe.len() != self.live.len() {
            Arc::make_mut(&mut self.safe).resize(self.live.len(), 0);
        }
        self.forget_dirt();
    }

    /// What a failed fsync does: the bytes stay readable, and nothing will write them.
    pub fn forget_dirt(&mut self) {
        self.dirty.fill(false);
    }

    /// The platter is all that is left.
    pub fn lose(&mut self) {
        self.live = Arc::clone(&self.safe);
        self.dirty = vec![false; self.live.len().div_ceil(SECTOR_BYTES)];
    }

    /// Some dirty sectors had reached the platter: the first ones, the last ones, or any.
    pub fn tear(&mut self, draw: &mut Draw) {
        let mut kept = self.dirty_sectors();
        let (shape, edge) = (draw.below(4), draw.below(kept.len() + 1));
        match shape {
            0 => kept.truncate(edge),
            1 => drop(kept.drain(..edge)),
            2 => kept.retain(|_| draw.below(2) == 0),
            _ => kept.clear(),
        }
        self.write_out(&kept);
        // The length had reached the platter too, or not.
        if draw.below(2) == 0 && (shape != 3 || self.live.len() < self.safe.len()) {
            Arc::make_mut(&mut self.safe).resize(self.live.len(), 0);
        }
        self.lose();
    }

    fn dirty_sectors(&self) -> Vec<usize> {
        let sectors = self.dirty.iter().enumerate();
        sectors.filter(|(_, dirty)| **dirty).map(|(sector, _)| sector).collect()
    }

    fn write_out(&mut self, sectors: &[usize]) {
        if sectors.is_empty() {
            return;
        }
        let safe = Arc::make_mut(&mut self.safe);
        for sector in sectors {
            let start = sector * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(self.live.len());
            if safe.len() < end {
                safe.resize(end, 0);
            }
            safe[start..end].copy_from_slice(&self.live[start..end]);
        }
    }
}

/// Chance with a seed (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of 0 to `bound` - 1.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
