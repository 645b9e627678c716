//! Reads the stream of outcomes: one line per group of transactions, compact or as JSON.
//!
//! At full rate these lines are most of what the client reads, so they are borrowed from the
//! receive buffer, and compact where the target knows that form ([`crate::outcomes`]).

use bytes::{Buf as _, BytesMut};
use serde::Deserialize;
use thiserror::Error;

use super::tracker::Key;

/// Longest line that is read; a longer one ends the stream.
const LINE_BYTES_MAX: usize = 16 << 20;
const ID_DIGITS: usize = 64;
/// Bytes of a compact line before its ids, without its length.
const COMPACT_HEADER_BYTES: usize = 8 + 1 + 8 + 8 + 8 + 4;
/// By their number in compact lines.
const STATES: [State; 6] = [
    State::Accepted,
    State::Certified,
    State::Executed,
    State::Expired,
    State::Skipped,
    State::Gap,
];

/// What became of a group of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Durable in a batch of the target.
    Accepted,
    /// The batch has a proof of store.
    Certified,
    /// Executed.
    Executed,
    /// Will not be executed any more.
    Expired,
    /// Was in a batch that evidence removed.
    Skipped,
    /// Not a group: `lost` lines before this one are gone.
    Gap,
}

#[derive(Deserialize)]
struct Line<'a> {
    seq: u64,
    state: State,
    #[serde(default)]
    time_micros: u64,
    #[serde(default, borrow)]
    ids: &'a str,
    #[serde(default)]
    latency_micros: Vec<u64>,
    #[serde(default)]
    lost: u64,
}

/// A line that was read and checked.
#[derive(Debug)]
pub struct Outcome<'a> {
    /// Its place in the stream; the stream continues at the next.
    pub seq: u64,
    /// What happened.
    pub state: State,
    /// When, in microseconds since the Unix epoch, by the target's clock.
    pub time_micros: u64,
    /// Lines lost, for a gap.
    pub lost: u64,
    group: Group<'a>,
}

#[derive(Debug)]
enum Group<'a> {
    /// Ids as hex digits.
    Text { digits: &'a [u8], latency_micros: Vec<u64> },
    /// Both as bytes.
    Compact { ids: &'a [[u8; 32]], latency_micros: &'a [[u8; 4]] },
}

/// Why a line, or a stream, could not be read.
#[derive(Debug, Error)]
pub enum InvalidOutcome {
    /// Not a document of the expected form.
    #[error("a line of outcomes has an unexpected form: {0}")]
    Form(#[from] serde_json::Error),
    /// Ids that are not 64 hex digits each.
    #[error("a line of outcomes holds ids that are not 64 hex digits each")]
    Ids,
    /// Not one latency per id.
    #[error("a line of outcomes holds {ids} ids and {latencies} latencies")]
    Latencies {
        /// Ids found.
        ids: usize,
        /// Latencies found.
        latencies: usize,
    },
    /// A compact line that is not as long as it says.
    #[error("a compact line of outcomes is cut")]
    Cut,
    /// A compact line with an unknown state.
    #[error("a compact line of outcomes has the unknown state {0}")]
    State(u8),
    /// A line above the bound.
    #[error("a line of outcomes is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
}

impl<'a> Outcome<'a> {
    /// Reads one line, without its end.
    pub fn read(line: &'a [u8]) -> Result<Self, InvalidOutcome> {
        let line: Line<'a> = serde_json::from_slice(line)?;
        let ids = line.ids.as_bytes();
        if !ids.len().is_multiple_of(ID_DIGITS) || !ids.iter().all(u8::is_ascii_hexdigit) {
            return Err(InvalidOutcome::Ids);
        }
        let (ids_count, latencies) = (ids.len() / ID_DIGITS, line.latency_micros.len());
        let has_latencies = matches!(line.state, State::Accepted | State::Certified)
            || line.state == State::Executed
            || latencies > 0;
        if has_latencies && ids_count != latencies {
            return Err(InvalidOutcome::Latencies { ids: ids_count, latencies });
        }
        Ok(Self {
            seq: line.seq,
            state: line.state,
            time_micros: line.time_micros,
            lost: line.lost,
            group: Group::Text { digits: ids, latency_micros: line.latency_micros },
        })
    }

    /// Reads one compact line, without its length.
    pub fn read_compact(line: &'a [u8]) -> Result<Self, InvalidOutcome> {
        let mut rest = line;
        if rest.len() < COMPACT_HEADER_BYTES {
            return Err(InvalidOutcome::Cut);
        }
        let (seq, state, _height) = (rest.get_u64_le(), rest.get_u8(), rest.get_u64_le());
        let (time_micros, lost) = (rest.get_u64_le(), rest.get_u64_le());
        let count = rest.get_u32_le() as usize;
        let state = STATES.get(usize::from(state)).ok_or(InvalidOutcome::State(state))?;
        if rest.len() != count * 36 {
            return Err(InvalidOutcome::Cut);
        }
        let (ids, latencies) = rest.split_at(count * 32);
        let group =
            Group::Compact { ids: ids.as_chunks().0, latency_micros: latencies.as_chunks().0 };
        Ok(Self { seq, state: *state, time_micros, lost, group })
    }

    /// Each transaction and its latency in microseconds (0 where the state has none).
    pub fn transactions(&self) -> impl Iterator<Item = (Key, u64)> + '_ {
        let count = match &self.group {
            Group::Text { digits, .. } => digits.len() / ID_DIGITS,
            Group::Compact { ids, .. } => ids.len(),
        };
        (0..count).map(|position| match &self.group {
            Group::Text { digits, latency_micros } => {
                let digits = &digits[position * ID_DIGITS..][..ID_DIGITS];
                let mut key = [0; 32];
                for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
                    *byte = digit(pair[0]) << 4 | digit(pair[1]);
                }
                (Key(key), latency_micros.get(position).copied().unwrap_or_default())
            }
            Group::Compact { ids, latency_micros } => {
                (Key(ids[position]), u64::from(u32::from_le_bytes(latency_micros[position])))
            }
        })
    }
}

/// The value of a hex digit; `read` let nothing else through.
fn digit(character: u8) -> u8 {
    (character & 0x0f) + 9 * (character >> 6)
}

/// Cuts a stream of bytes into lines, bounded.
#[derive(Default)]
pub struct Lines {
    buffer: BytesMut,
    searched: usize,
    compact: bool,
}

impl Lines {
    /// Lines of one of the two forms.
    pub fn new(compact: bool) -> Self {
        Self { compact, ..Self::default() }
    }

    /// Takes more bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line, without its end; `None` until more bytes arrive.
    pub fn next_line(&mut self) -> Result<Option<BytesMut>, InvalidOutcome> {
        if self.compact {
            return self.next_compact();
        }
        loop {
            let unsearched = &self.buffer[self.searched..];
            let Some(end) = unsearched.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                if self.searched > LINE_BYTES_MAX {
                    return Err(InvalidOutcome::TooLong);
                }
                return Ok(None);
            };
            let line = self.buffer.split_to(self.searched + end);
            self.buffer.advance(1);
            self.searched = 0;
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }

    fn next_compact(&mut self) -> Result<Option<BytesMut>, InvalidOutcome> {
        let Some(length) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > LINE_BYTES_MAX {
            return Err(InvalidOutcome::TooLong);
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        Ok(Some(self.buffer.split_to(length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(state: &str, ids: &str, latencies: &str) -> String {
        format!(
            "{{\"seq\":7,\"state\":\"{state}\",\"height\":null,\"time_micros\":9,\
             \"ids\":\"{ids}\",\"latency_micros\":[{latencies}]}}"
        )
    }

    #[test]
    fn a_line_yields_each_key_with_its_latency() {
        let ids = format!("{}{}", "0123456789abcdefABCDEF9876543210".repeat(2), "ff".repeat(32));
        let text = line("certified", &ids, "5,6");
        let outcome = Outcome::read(text.as_bytes()).expect("well formed");
        assert_eq!((outcome.seq, outcome.state, outcome.time_micros), (7, State::Certified, 9));
        let mut first = [0; 32];
        hex::decode_to_slice(&ids[..64], &mut first).expect("hex");
        let found: Vec<_> = outcome.transactions().collect();
        assert_eq!(found, vec![(Key(first), 5), (Key([0xff; 32]), 6)]);
    }

    #[test]
    fn the_compact_form_says_what_the_text_says_wherever_it_is_cut() {
        use crate::outcomes::{Group, Milestone, Outcomes, text};
        let source = Outcomes::new(800);
        let mut group = Group::default();
        (0..9).for_each(|number| group.push([number; 32], u64::from(number) + 70));
        for milestone in [Milestone::Accepted, Milestone::Executed, Milestone::Expired] {
            source.publish(milestone, Some(4), &group);
        }
        let lines = source.read(0, 1 << 20).lines;
        assert_eq!(lines.len(), 3, "a gap and two lines");
        let stream = lines.concat();
        let mut found = Vec::new();
        let mut cut = Lines::new(true);
        for byte in &stream {
            cut.push(&[*byte]);
            found.extend(cut.next_line().expect("well formed"));
        }
        assert_eq!(found.len(), 3);
        for (compact, whole) in found.iter().zip(&lines) {
            let text = text(whole);
            let text = Outcome::read(text.trim_ascii()).expect("well formed");
            let compact = Outcome::read_compact(compact).expect("well formed");
            assert_eq!((compact.seq, compact.state), (text.seq, text.state));
            assert_eq!((compact.time_micros, compact.lost), (text.time_micros, text.lost));
            let each = |outcome: &Outcome<'_>| outcome.transactions().collect::<Vec<_>>();
            assert_eq!(each(&compact), each(&text));
        }
        let line = &lines[1][4..];
        for end in 0..line.len() {
            assert!(Outcome::read_compact(&line[..end]).is_err(), "cut at {end}");
        }
        let mut unknown = line.to_vec();
        unknown[8] = 6;
        assert!(matches!(Outcome::read_compact(&unknown), Err(InvalidOutcome::State(6))));
    }

    #[test]
    fn a_gap_says_how_much_is_lost() {
        let outcome = Outcome::read(br#"{"seq":40,"state":"gap","lost":33}"#).expect("a gap");
        assert_eq!((outcome.seq, outcome.state, outcome.lost), (40, State::Gap, 33));
        assert_eq!(outcome.transactions().count(), 0);
    }

    #[test]
    fn malformed_lines_are_refused() {
        let id = "0".repeat(64);
        for text in [
            line("executed", &id[1..], "1"),
            line("executed", &id.replace('0', "g"), "1"),
            line("executed", &id, "1,2"),
            line("executed", &id, ""),
            line("melted", &id, "1"),
            "{".to_owned(),
        ] {
            assert!(Outcome::read(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn lines_are_found_wherever_the_stream_is_cut() {
        let stream = b"first\n\nsecond\nthird";
        for cut in 0..=stream.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                lines.push(part);
                while let Some(line) = lines.next_line().expect("short lines") {
                    found.push(line);
                }
            }
            assert_eq!(found, ["first", "second"], "cut at {cut}");
        }
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; LINE_BYTES_MAX + 1]);
        assert!(matches!(lines.next_line(), Err(InvalidOutcome::TooLong)));
    }
}
