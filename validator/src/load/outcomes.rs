//! Reads the stream of outcomes: one JSON document per line, one line per group of transactions.
//!
//! At full rate these lines are most of what the client reads, so they are borrowed from the
//! receive buffer.

use bytes::{Buf, BytesMut};
use serde::Deserialize;
use thiserror::Error;

use super::tracker::Key;

/// Longest line that is read; a longer one ends the stream.
const LINE_BYTES_MAX: usize = 16 << 20;
const ID_DIGITS: usize = 64;

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
    ids: &'a [u8],
    latency_micros: Vec<u64>,
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
            ids,
            latency_micros: line.latency_micros,
        })
    }

    /// Each transaction and its latency in microseconds (0 where the state has none).
    pub fn transactions(&self) -> impl Iterator<Item = (Key, u64)> + '_ {
        let latencies = self.latency_micros.iter().copied().chain(std::iter::repeat(0));
        self.ids.chunks_exact(ID_DIGITS).zip(latencies).map(|(digits, latency_micros)| {
            let mut key = [0; 32];
            for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
                *byte = digit(pair[0]) << 4 | digit(pair[1]);
            }
            (Key(key), latency_micros)
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
}

impl Lines {
    /// Takes more bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line, without its end; `None` until more bytes arrive.
    pub fn next_line(&mut self) -> Result<Option<BytesMut>, InvalidOutcome> {
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
