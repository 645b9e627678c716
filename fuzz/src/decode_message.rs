//! Frames and hellos from anybody.
//!
//! Claims: decoding never panics; what it keeps is a small multiple of the frame, what it needs
//! meanwhile that and a constant; what decodes encodes to the same bytes and obeys the bounds of
//! its kind; a body that verifies is what a naive reading of the format says.

use std::fmt::Debug;

use bytes::Bytes;
use peak_alloc::PeakAlloc;
use quorum_store::types::{
    Batch, ChainId, ChainParameters, FetchedContent, Hello, Message, Payload,
};

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// Decoding reserves room for a claimed length only up to 1 MiB per level of nesting.
const TRANSIENT_BYTES: usize = 3 << 20;
/// What a decoded value may take per byte of its frame: vectors grow by doubling.
const FACTOR: usize = 4;
/// Errors carry a sentence.
const CONSTANT_BYTES: usize = 4 << 10;

/// See the module docs.
pub fn run(data: &[u8]) {
    let frame = Bytes::copy_from_slice(data);
    if let Some(message) = bounded(data.len(), || Message::decode(&frame)) {
        assert_eq!(message.encode().to_bytes(), frame, "{} changed", message.kind_name());
        check_message(&message);
    }
    if let Some(hello) = bounded(data.len(), || Hello::decode(&frame)) {
        assert_eq!(hello.encode(), frame, "the hello changed");
        assert!(frame.len() <= 1 + 1024, "a hello of {} bytes", frame.len());
    }
}

/// Runs `decode` and checks what it allocates.
fn bounded<T, E: Debug>(length: usize, decode: impl FnOnce() -> Result<T, E>) -> Option<T> {
    let before = ALLOCATED.current_usage();
    ALLOCATED.reset_peak_usage();
    let decoded = decode();
    let kept = ALLOCATED.current_usage().saturating_sub(before);
    let peak = ALLOCATED.peak_usage().saturating_sub(before);
    assert!(kept <= FACTOR * length + CONSTANT_BYTES, "{kept} bytes kept of {length}");
    let bound = FACTOR * length + CONSTANT_BYTES + TRANSIENT_BYTES;
    assert!(peak <= bound, "{peak} bytes needed for {length}");
    decoded.ok()
}

fn check_message(message: &Message) {
    match message {
        Message::Batch(batch) => check_batch(batch),
        Message::Votes { votes, .. } => assert!(votes.len() <= 4096, "{} votes", votes.len()),
        Message::Proofs(proofs) => assert!(proofs.len() <= 1024, "{} proofs", proofs.len()),
        Message::Payload(payload) => check_payload(payload),
        Message::Announce(_) | Message::Serving(_) => {}
        Message::FetchRequest(digests) => {
            assert!(digests.len() <= 256, "{} digests", digests.len());
        }
        Message::FetchReply { content, .. } => match content {
            FetchedContent::Missing => {}
            FetchedContent::Batch(batch) => check_batch(batch),
            FetchedContent::Payload(payload) => check_payload(payload),
        },
    }
}

fn check_payload(payload: &Payload) {
    let _ = payload.digest(&ChainId::default());
    let _ = payload.content.root();
    let _ = payload.expiration(&ChainParameters::default());
    let content = &payload.content;
    let parts = content.proofs.len() + content.optimistic.len() + content.inline.len();
    assert_eq!(content.batches().count(), parts);
    content.inline.iter().for_each(check_batch);
}

fn check_batch(batch: &Batch) {
    let body = batch.body.bytes();
    let sliced: usize = batch.body.transactions().map(|transaction| transaction.len()).sum();
    assert!(sliced <= body.len(), "{sliced} bytes of transactions in {}", body.len());
    // Whatever the info says: the same body under an info that matches it.
    let parameters = ChainParameters::default();
    let mut info = batch.info;
    info.bytes = body.len() as u32;
    info.root = batch.body.root();
    let naive = transactions(body);
    // What is no list must be refused although the info agrees with whatever is read in it.
    let count = |found: &Vec<Bytes>| found.len();
    info.count = naive.as_ref().map_or_else(|| batch.body.transactions().count(), count) as u32;
    let valid = naive.filter(|found| {
        let fits = |transaction: &Bytes| {
            (1..=parameters.transaction_bytes_max as usize).contains(&transaction.len())
        };
        (1..=parameters.batch_transactions_max as usize).contains(&found.len())
            && body.len() <= parameters.batch_bytes_max as usize
            && found.iter().all(fits)
    });
    let verdict = batch.body.verify(&info, &parameters);
    assert_eq!(verdict.is_ok(), valid.is_some(), "{verdict:?}, naively {valid:?}");
    if let Some(transactions) = valid {
        assert!(batch.body.transactions().eq(transactions), "other transactions");
    }
    if batch.info != info {
        assert!(
            batch.body.verify(&batch.info, &parameters).is_err() || batch.info.epoch != info.epoch
        );
    }
}

/// Reads a body as its documentation says: a ULEB128 count, that many lengths, the bytes.
fn transactions(body: &Bytes) -> Option<Vec<Bytes>> {
    let mut rest = &body[..];
    let (mut count, mut shift) = (0_u64, 0);
    loop {
        let (byte, tail) = rest.split_first()?;
        rest = tail;
        count |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            if *byte == 0 && shift > 0 {
                return None;
            }
            break;
        }
        shift += 7;
        if shift > 28 {
            // Five groups hold 32 bits; the fifth must be the last.
            let (last, tail) = rest.split_first()?;
            if last & 0x80 != 0 || *last == 0 {
                return None;
            }
            rest = tail;
            count |= u64::from(*last) << shift;
            break;
        }
    }
    let mut lengths = Vec::new();
    for _ in 0..u32::try_from(count).ok()? {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        lengths.push(u32::from_le_bytes(*length) as usize);
        rest = tail;
    }
    let mut found = Vec::new();
    for length in lengths {
        let (transaction, tail) = rest.split_at_checked(length)?;
        found.push(Bytes::copy_from_slice(transaction));
        rest = tail;
    }
    rest.is_empty().then_some(found)
}
