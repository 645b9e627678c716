//! Frames on a stream: a length as `u32` little-endian, then that many bytes.
//!
//! The reader trusts nothing: a length is bounded before anything is allocated, and zero is a fault
//! because no message is empty. It takes what has arrived in whole chunks, so a hundred small
//! frames cost one visit to the connection; every frame is copied once, into memory of its own,
//! so that a small frame does not keep a large datagram alive.
//!
//! The writer copies small frames together and hands large bodies over as they are.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use quinn::{ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError};

use crate::transport::{Class, Frame, Inbound, LinkDown, LinkEvent, Refusal};

use super::{
    Shared,
    link::{LINGER, LinkSide},
};

/// Bytes of frames that one write takes from the queue, if they are small.
const WRITE_BYTES: usize = 256 << 10;

/// Up to this size a body is copied behind its head; beyond it is handed over by reference.
const COPY_BYTES_MAX: usize = 4 << 10;

/// Chunks taken from the connection at once.
const CHUNKS: usize = 16;

/// Reads length words and bytes from a stream.
pub(super) struct FrameReader {
    stream: RecvStream,
    /// What was taken from the connection and not yet consumed: `chunks[at..filled]`.
    chunks: [Bytes; CHUNKS],
    at: usize,
    filled: usize,
}

impl FrameReader {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self { stream, chunks: [const { Bytes::new() }; CHUNKS], at: 0, filled: 0 }
    }

    /// The first chunk with unread bytes; waits for one.
    async fn chunk(&mut self) -> Result<&mut Bytes, LinkDown> {
        while self.at == self.filled || self.chunks[self.at].is_empty() {
            if self.at < self.filled {
                // Consumed: let go of the datagram's memory.
                self.chunks[self.at] = Bytes::new();
                self.at += 1;
                continue;
            }
            self.at = 0;
            self.filled = match self.stream.read_chunks(&mut self.chunks).await {
                Ok(Some(filled)) => filled,
                // Streams live as long as their link, and end with a reset that says why.
                Ok(None) => return Err(LinkDown::Lost("the peer ended a stream".into())),
                Err(error) => return Err(read_failed(&error)),
            };
        }
        Ok(&mut self.chunks[self.at])
    }

    /// Reads a word of four bytes.
    pub(super) async fn word(&mut self) -> Result<[u8; 4], LinkDown> {
        let mut word = [0; 4];
        let mut have = 0;
        while have < word.len() {
            let chunk = self.chunk().await?;
            let count = chunk.len().min(word.len() - have);
            chunk.copy_to_slice(&mut word[have..have + count]);
            have += count;
        }
        Ok(word)
    }

    /// Reads a length and refuses what exceeds `max`.
    pub(super) async fn length(&mut self, max: usize) -> Result<usize, LinkDown> {
        let length = u32::from_le_bytes(self.word().await?) as usize;
        if length > max {
            return Err(LinkDown::RefusedByUs(Refusal::Oversized));
        }
        Ok(length)
    }

    /// Reads exactly `length` bytes into one allocation. The caller has bounded `length`.
    pub(super) async fn bytes(&mut self, length: usize) -> Result<Bytes, LinkDown> {
        let mut bytes = BytesMut::with_capacity(length);
        while bytes.len() < length {
            let rest = length - bytes.len();
            let chunk = self.chunk().await?;
            bytes.put(chunk.split_to(chunk.len().min(rest)));
        }
        Ok(bytes.freeze())
    }
}

/// Reads frames of one class for as long as the link lives. Returns why it cannot go on.
pub(super) async fn read_frames(
    shared: &Shared,
    side: &LinkSide,
    class: Class,
    mut reader: FrameReader,
) -> LinkDown {
    let max = *shared.config.limits.frame_bytes_max.get(class);
    loop {
        let frame = async {
            let length = reader.length(max).await?;
            if length == 0 {
                return Err(LinkDown::RefusedByUs(Refusal::Malformed));
            }
            let permit = side.slot.receive_permit(class, length).await;
            let permit = permit.ok_or(LinkDown::Closed)?;
            Ok((permit, reader.bytes(length).await?))
        };
        let (permit, bytes) = match frame.await {
            Ok(frame) => frame,
            Err(reason) => return reason,
        };
        side.slot.count_received(4 + bytes.len() as u64);
        let inbound = Inbound::new(side.slot.key(), class, bytes, permit);
        if !shared.events.emit(LinkEvent::Frame(inbound)).await {
            return LinkDown::Closed;
        }
    }
}

/// Writes what is queued for as long as the link lives. Returns why it cannot go on.
pub(super) async fn write_frames(
    side: &LinkSide,
    class: Class,
    stream: &mut SendStream,
) -> LinkDown {
    let queue = side.link.queue(class);
    let mut frames = Vec::new();
    let mut small = BytesMut::new();
    let mut chunks = Vec::new();
    loop {
        let charged = queue.take(&mut frames, WRITE_BYTES).await;
        let bytes = encode(&mut frames, &mut small, &mut chunks);
        if let Err(error) = stream.write_all_chunks(&mut chunks).await {
            if matches!(error, WriteError::Stopped(_)) {
                // The end of a link: the reset of the peer's streams, which the readers are about
                // to see, says why. Without one it is a fault.
                tokio::time::sleep(LINGER).await;
            }
            return write_failed(&error);
        }
        chunks.clear();
        queue.release(charged);
        side.slot.count_sent(bytes);
    }
}

/// Turns frames into what goes on the wire, and returns its length.
fn encode(frames: &mut Vec<Frame>, small: &mut BytesMut, chunks: &mut Vec<Bytes>) -> u64 {
    let mut bytes = 0;
    for frame in frames.drain(..) {
        // The queue takes no frame above the class's limit, which is below 4 GiB.
        small.put_u32_le(frame.len() as u32);
        bytes += 4 + frame.len() as u64;
        for part in [frame.head, frame.body] {
            if part.len() <= COPY_BYTES_MAX {
                small.put_slice(&part);
            } else {
                chunks.push(small.split().freeze());
                chunks.push(part);
            }
        }
    }
    if !small.is_empty() {
        chunks.push(small.split().freeze());
    }
    bytes
}

fn read_failed(error: &ReadError) -> LinkDown {
    match error {
        ReadError::ConnectionLost(error) => connection_failed(error),
        ReadError::Reset(code) => by_peer(*code),
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
            LinkDown::Lost(error.to_string())
        }
    }
}

pub(super) fn write_failed(error: &WriteError) -> LinkDown {
    match error {
        WriteError::ConnectionLost(error) => connection_failed(error),
        WriteError::Stopped(_) => LinkDown::RefusedByUs(Refusal::Malformed),
        WriteError::ClosedStream | WriteError::ZeroRttRejected => LinkDown::Lost(error.to_string()),
    }
}

/// What the end of a connection says about the link.
pub(super) fn connection_failed(error: &ConnectionError) -> LinkDown {
    let lost = || LinkDown::Lost(error.to_string());
    match error {
        ConnectionError::ApplicationClosed(close) => by_peer(close.error_code),
        ConnectionError::ConnectionClosed(close) => {
            tls_alert(u64::from(close.error_code)).map_or_else(lost, LinkDown::RefusedByPeer)
        }
        ConnectionError::TransportError(error) => {
            tls_alert(u64::from(error.code)).map_or_else(lost, LinkDown::RefusedByUs)
        }
        ConnectionError::Reset => {
            LinkDown::Lost("the peer was restarted and does not know this link".into())
        }
        ConnectionError::TimedOut => LinkDown::Lost("nothing was heard of the peer".into()),
        ConnectionError::LocallyClosed => LinkDown::Closed,
        ConnectionError::VersionMismatch => LinkDown::RefusedByPeer(Refusal::Version),
        ConnectionError::CidsExhausted => lost(),
    }
}

fn by_peer(code: VarInt) -> LinkDown {
    LinkDown::by_peer(u32::try_from(code.into_inner()).unwrap_or(u32::MAX))
}

/// Alerts of our handshake (RFC 8446, section 6.2), as QUIC carries them (RFC 9001, section 4.8).
fn tls_alert(code: u64) -> Option<Refusal> {
    match code.checked_sub(0x100)? {
        // bad_certificate, unsupported_certificate, certificate_unknown, access_denied,
        // certificate_required: how a key that is not in the set is refused.
        42 | 43 | 46 | 49 | 116 => Some(Refusal::UnknownKey),
        // protocol_version, no_application_protocol
        70 | 120 => Some(Refusal::Version),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_frames_travel_together_and_large_bodies_by_reference() {
        let body = Bytes::from(vec![7; COPY_BYTES_MAX + 1]);
        let small = || Frame { head: Bytes::from_static(b"h"), body: Bytes::from_static(b"b") };
        let large = Frame { head: Bytes::from_static(b"head"), body: body.clone() };
        let mut frames = vec![small(), small(), large, small()];
        let (mut buffer, mut chunks) = (BytesMut::new(), Vec::new());
        let bytes = encode(&mut frames, &mut buffer, &mut chunks);
        assert_eq!(chunks.len(), 3);
        assert_eq!(&chunks[0][..], b"\x02\0\0\0hb\x02\0\0\0hb\x05\x10\0\0head");
        assert_eq!(chunks[1].as_ptr(), body.as_ptr(), "not copied");
        assert_eq!(&chunks[2][..], b"\x02\0\0\0hb");
        assert_eq!(bytes, chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>());
        assert!(frames.is_empty() && buffer.is_empty());
    }

    #[test]
    fn alerts_of_the_handshake_are_refusals() {
        assert_eq!(tls_alert(0x100 + 49), Some(Refusal::UnknownKey));
        assert_eq!(tls_alert(0x100 + 120), Some(Refusal::Version));
        assert_eq!(tls_alert(0x100 + 80), None);
        assert_eq!(tls_alert(0x0a), None);
    }
}
