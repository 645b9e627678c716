//! The writer: groups become frames, one after the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use super::super::directory::DataDirectory;
use super::super::index::Tally;
use super::super::schema::{self, Meta};
use super::super::{CommitStats, Recovered, StoreError, recovery};
use super::forward::is_cheap;
use super::frame::{Frame, Header, Secret};
use super::reader::Shared;
use super::ring::{Place, Ring};
use super::scan::{self, Read};
use super::tables::FrameAt;
use super::volume::{BLOCK, Buffer, Volume, buffer};
use crate::sequencer::port::Record;
use crate::types::Timestamp;

/// Segments that are kept free: below that, what is in force in the oldest one is copied forward.
pub(super) const SEGMENTS_SPARE: u64 = 2;
/// Groups leave so much room for openings: each writes a frame of its own. At most a quarter of a
/// segment, and half of what an opening found, so that a journal on a full disk can be opened again
/// and again and still takes a few groups.
pub(super) const OPENING_BYTES: u64 = 1 << 20;

/// The same over any volume.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) shared: Arc<Shared>,
    /// Known once the journal has been read.
    pub(super) writer: Option<Writer>,
    pub(super) segments_max: u32,
    /// The first failure, once there is one.
    pub(super) failed: Option<StoreError>,
}

/// What only the writer knows.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) ring: Ring,
    pub(super) life: u64,
    /// Of the last durable frame.
    pub(super) sequence: u64,
    /// Frames made durable in this life, and their bytes.
    pub(super) written: (u64, u64),
    /// Frames are laid out here.
    pub(super) buffer: Buffer,
    /// What groups leave in the last segment.
    pub(super) reserve: u64,
}

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A group, or what is copied forward before one.
    Group,
    /// What begins a store or a life, or lets segments go.
    Life,
    /// The end of a life.
    Closing,
}

impl Journal {
    pub(super) fn new(
        volume: Arc<dyn Volume>,
        secret: Secret,
        meta: Meta,
        segments_max: u32,
        directory: Option<DataDirectory>,
    ) -> Self {
        let segments_max = segments_max.max(volume.count());
        let shared = Arc::new(Shared {
            volume,
            secret,
            meta,
            tables: RwLock::default(),
            index: RwLock::default(),
            bases: (0..segments_max).map(|_| AtomicU64::new(0)).collect(),
            free_bytes: AtomicU64::new(0),
            _directory: directory,
        });
        Self { shared, writer: None, segments_max, failed: None }
    }

    /// Writes the first frame of a new journal.
    pub(super) fn format(
        volume: &Arc<dyn Volume>,
        secret: &Secret,
        meta: &Meta,
        silent_until: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let mut journal = Self::new(Arc::clone(volume), *secret, *meta, 0, None);
        journal.read()?;
        let mut frame = Frame::default();
        frame.write(schema::encode_meta(meta));
        if let Some(until) = silent_until {
            frame.write(schema::encode_silence(until));
        }
        journal.append(&frame, Kind::Life)
    }

    pub(super) fn recover(&mut self) -> Result<Recovered, StoreError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let recovered = self.open_life();
        recovered.inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn open_life(&mut self) -> Result<Recovered, StoreError> {
        if let Some(last) = self.read()? {
            self.write_again(&last)?;
        }
        let image = recovery::recover(&*self.shared, &self.shared.meta)?;
        self.writer().life = image.life;
        let mut frame = Frame::default();
        for repair in image.repairs {
            frame.write(repair);
        }
        frame.write(schema::encode_life(image.life));
        self.append(&frame, Kind::Life)?;
        let writer = self.writer();
        if writer.ring.free() == 0 {
            writer.reserve = writer.reserve.min(writer.ring.rest() / 2);
        }
        self.shared.index_mut(|index| *index = image.index);
        Ok(image.recovered)
    }

    /// Takes over what is on disk, and nothing that was in memory. Returns the last frame.
    fn read(&mut self) -> Result<Option<Read>, StoreError> {
        let shared = &self.shared;
        let scan = scan::scan(&*shared.volume, &shared.secret)?;
        if let Some((segment, offset)) = scan.torn {
            // It must not be taken for the next frame, or a later one, once that lies elsewhere.
            let doing = |error| StoreError::io("clearing a torn frame", &error);
            shared.volume.write(segment, offset, &buffer(BLOCK)).map_err(doing)?;
            shared.volume.sync(segment).map_err(doing)?;
        }
        let (entries, contents) = scan.tables.count();
        if entries > 0 {
            tracing::info!(entries, contents, "the journal is read");
        }
        *shared.tables.write().unwrap_or_else(PoisonError::into_inner) = scan.tables;
        for used in scan.ring.uses() {
            shared.bases[used.segment as usize].store(used.base, Ordering::SeqCst);
        }
        let last = scan.last.as_ref().map(|last| last.header);
        let (life, sequence) = last.map_or((0, 0), |header| (header.life, header.sequence));
        let buffer = buffer(BLOCK);
        self.writer = Some(Writer {
            ring: scan.ring,
            life,
            sequence,
            written: (0, 0),
            buffer,
            reserve: OPENING_BYTES.min(shared.volume.segment_bytes() / 4),
        });
        Ok(scan.last)
    }

    /// What may be only in a cache is made durable before anything relies on it.
    fn write_again(&self, last: &Read) -> Result<(), StoreError> {
        let doing = |error| StoreError::io("writing the last frame again", &error);
        let Shared { volume, .. } = &*self.shared;
        let (segment, offset) = (last.at.segment, last.at.offset);
        let mut bytes = buffer(last.header.frame_bytes() as usize);
        volume.read(segment, offset, &mut bytes).map_err(doing)?;
        volume.write(segment, offset, &bytes).map_err(doing)?;
        volume.sync(segment).map_err(doing)
    }

    pub(super) fn writer(&mut self) -> &mut Writer {
        match &mut self.writer {
            Some(writer) => writer,
            None => panic!("S2: a group before recovery"),
        }
    }

    pub(super) fn commit(&mut self, records: &[Record]) -> Result<CommitStats, StoreError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let written = self.write(records);
        written.inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn write(&mut self, records: &[Record]) -> Result<CommitStats, StoreError> {
        let start = Instant::now();
        let before = self.writer().written;
        let mut frame = Frame::default();
        let mut tally = Tally::default();
        self.shared.index(|index| {
            schema::encode(records, index.commits(), |write| {
                tally.add(&write);
                frame.write(write);
            });
        });
        self.copy_forward(frame.bytes())?;
        self.shared.index_mut(|index| index.forget(records));
        self.append(&frame, Kind::Group)?;
        self.shared.index_mut(|index| index.apply(records, &tally));
        // With what was copied forward for it.
        let after = self.writer().written;
        let (fsyncs, bytes) = (after.0 - before.0, after.1 - before.1);
        let content_bytes = tally.content_bytes;
        Ok(CommitStats { fsyncs, bytes, content_bytes, elapsed: start.elapsed() })
    }

    /// Makes a frame durable, and then true for readers.
    pub(super) fn append(&mut self, frame: &Frame, kind: Kind) -> Result<(), StoreError> {
        let place = self.place(frame, kind)?;
        let shared = Arc::clone(&self.shared);
        let writer = self.writer();
        let sequence = writer.sequence + 1;
        let header = frame.measured(Header {
            base: place.base,
            life: writer.life,
            sequence,
            durable: writer.sequence,
            needed: shared.tables(|tables| writer.ring.needed(&place, |s| tables.live(s).count)),
            closing: kind == Kind::Closing,
            change_bytes: 0,
            content_bytes: 0,
        });
        let bytes = header.frame_bytes();
        if (writer.buffer.len() as u64) < bytes {
            writer.buffer = buffer(bytes as usize);
        }
        let laid_out = &mut writer.buffer[..bytes as usize];
        frame.lay_out(&header, &shared.secret, laid_out);
        let doing = |error| StoreError::io("writing a group", &error);
        shared.bases[place.segment as usize].store(place.base, Ordering::SeqCst);
        shared.volume.write(place.segment, place.offset, laid_out).map_err(doing)?;
        shared.volume.sync(place.segment).map_err(doing)?;
        writer.sequence = sequence;
        writer.written = (writer.written.0 + 1, writer.written.1 + bytes);
        writer.ring.on_durable(&place, bytes, sequence, header.needed);
        let at = FrameAt::new(place.segment, place.offset, &header);
        let mut tables = shared.tables.write().unwrap_or_else(PoisonError::into_inner);
        assert!(tables.apply(&at, frame.changes()), "J5: a frame that cannot be read");
        drop(tables);
        self.measure();
        if self.will_add() {
            shared.volume.prepare();
        }
        Ok(())
    }

    /// Finds room, and makes some if there is none.
    fn place(&mut self, frame: &Frame, kind: Kind) -> Result<Place, StoreError> {
        let bytes = frame.bytes();
        let segment_bytes = self.shared.volume.segment_bytes();
        if bytes > segment_bytes {
            return Err(StoreError::Setting {
                name: "segment_bytes (of a journal that is to take this group)",
                value: segment_bytes,
                minimum: bytes,
                maximum: 4 << 30,
            });
        }
        if let Some(place) = self.find_place(bytes, kind) {
            return Ok(place);
        }
        let (rest, oldest) = (self.writer().ring.rest(), self.oldest_bytes());
        if rest >= BLOCK as u64 && !frame.is_empty() && oldest == Some(0) {
            // What the last groups deleted is free once a durable frame has said so.
            self.append(&Frame::default(), Kind::Life)?;
        }
        let volume = Arc::clone(&self.shared.volume);
        loop {
            if let Some(place) = self.find_place(bytes, kind) {
                return Ok(place);
            }
            // At most two: a group that fills one leaves the other to openings.
            let added = volume.count();
            if added >= self.segments_max {
                return Err(StoreError::DiskFull {
                    doing: "looking for a free segment of the journal",
                });
            }
            let doing = |error| StoreError::io("adding a segment to the journal", &error);
            volume.add().map_err(doing)?;
            self.writer().ring.add(added);
        }
    }

    fn find_place(&mut self, bytes: u64, kind: Kind) -> Option<Place> {
        let segment_bytes = self.shared.volume.segment_bytes();
        let writer = self.writer();
        let place = writer.ring.place(bytes, writer.sequence + 1)?;
        let taken = u64::from(place.base == writer.sequence + 1);
        let rest = segment_bytes - place.offset - bytes;
        // A segment that could be added may find the disk full.
        let leaves_room = rest >= writer.reserve || writer.ring.free() > taken;
        (kind != Kind::Group || leaves_room).then_some(place)
    }

    /// Bytes in force in the oldest segment but the one that is written to.
    fn oldest_bytes(&mut self) -> Option<u64> {
        let oldest = self.writer().ring.oldest()?;
        let live = self.shared.tables(|tables| tables.live(oldest.segment));
        Some(if live.count == 0 { 0 } else { live.bytes.max(1) })
    }

    /// True if the next segment will have to be added.
    fn will_add(&mut self) -> bool {
        let volume = Arc::clone(&self.shared.volume);
        let (free, rest) = (self.writer().ring.free(), self.writer().ring.rest());
        free == 0
            && rest < volume.segment_bytes() / 2
            && volume.count() < self.segments_max
            && self.oldest_bytes().is_none_or(|bytes| !is_cheap(bytes, &*volume))
    }

    pub(super) fn has_place(&mut self, bytes: u64) -> bool {
        let addable = self.shared.volume.count() < self.segments_max;
        addable || self.find_place(bytes, Kind::Group).is_some()
    }

    /// Segments that can be taken, those that can still be added included.
    pub(super) fn spare(&mut self) -> u64 {
        let addable = self.segments_max.saturating_sub(self.shared.volume.count());
        self.writer().ring.free() + u64::from(addable)
    }

    /// Announces the room that is left: without what copying forward may need.
    pub(super) fn measure(&mut self) {
        let segment_bytes = self.shared.volume.segment_bytes();
        let spare = self.spare().saturating_sub(SEGMENTS_SPARE);
        let room = spare.saturating_mul(segment_bytes) + self.writer().ring.rest();
        self.shared.free_bytes.store(room, Ordering::Relaxed);
    }
}

/// A clean stop: the last frame says so. If it cannot be written, the next opening finds a crash.
impl Drop for Journal {
    fn drop(&mut self) {
        // A panic on the way may have left half a step.
        if !std::thread::panicking()
            && self.failed.is_none()
            && self.writer.as_ref().is_some_and(|writer| writer.life > 0)
            && let Err(error) = self.append(&Frame::default(), Kind::Closing)
        {
            tracing::warn!(%error, "the journal was not closed");
        }
    }
}
