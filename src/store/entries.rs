//! Reading entries, the same for every store: nothing leaves unless it is what its digest names.

use std::sync::Arc;

use bytes::Bytes;

use super::StoreError;
use super::index::Located;
use super::schema::{self, Entry};
use crate::types::{
    Batch, BatchBody, BatchInfo, ChainId, CommitIndex, CommitReceipt, Digest, Payload,
    ProofOfStore, Timestamp,
};

/// Receives a key and its value.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError> + 'a;

/// Makes a checked entry of a key and its value, on any thread.
pub(crate) type Decode<'a> = dyn Fn(&[u8], &[u8]) -> Result<Entry, StoreError> + Sync + 'a;

/// Takes decoded entries.
pub(crate) type Take<'a> = dyn FnMut(Entry) + 'a;

/// The entries of a store.
pub(crate) trait Entries {
    /// Decodes every control entry and hands it on, in the order of keys. A store that has many in
    /// memory does so on several threads.
    fn decode_control(&self, decode: &Decode<'_>, take: &mut Take<'_>) -> Result<(), StoreError> {
        self.scan_control(&mut |key, value| {
            take(decode(key, value)?);
            Ok(())
        })
    }

    /// Every control entry in the order of keys.
    fn scan_control(&self, visit: &mut Visit<'_>) -> Result<(), StoreError>;

    /// One control entry.
    fn control(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// One content; `Damaged` if the storage says that it is.
    fn content(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;
}

/// Entries that can be read one after the other, for the offline check.
#[cfg(feature = "storage")]
pub(crate) trait AllEntries: Entries {
    /// Every content, in any order. What cannot be read is left out or ends the scan.
    fn scan_content(&self, visit: &mut Visit<'_>) -> Result<(), StoreError>;
}

/// Reads a batch; `None` if an entry of it is not there.
pub(crate) fn batch(
    entries: &dyn Entries,
    chain: &ChainId,
    digest: &Digest,
    located: Located,
) -> Result<Option<Batch>, StoreError> {
    let key = schema::batch_key(located.expiration, digest);
    let Some(Entry::Batch { entry, .. }) = decoded(entries, &key)? else { return Ok(None) };
    let Some(body) = entries.content(&key)? else { return Ok(None) };
    checked_batch(chain, digest, entry.info, body).map(Some)
}

/// Reads a payload; `None` if it is not there.
pub(crate) fn payload(
    entries: &dyn Entries,
    chain: &ChainId,
    digest: &Digest,
    located: Located,
) -> Result<Option<Payload>, StoreError> {
    let value = entries.content(&schema::payload_key(located.expiration, digest))?;
    value.map(|value| checked_payload(chain, digest, &value)).transpose()
}

/// Reads a proof.
pub(crate) fn proof(
    entries: &dyn Entries,
    chain: &ChainId,
    digest: &Digest,
    expiration: Timestamp,
) -> Result<Option<ProofOfStore>, StoreError> {
    let key = schema::proof_key(expiration, digest);
    match decoded(entries, &key)? {
        Some(Entry::Proof { proof, .. }) if proof.info.digest(chain) == *digest => {
            Ok(Some(Arc::unwrap_or_clone(proof)))
        }
        Some(_) => Err(damaged_entry(&key, &"differs from its digest")),
        None => Ok(None),
    }
}

/// Reads a receipt.
pub(crate) fn receipt(
    entries: &dyn Entries,
    index: CommitIndex,
) -> Result<Option<CommitReceipt>, StoreError> {
    match decoded(entries, &schema::applied_key(index))? {
        Some(Entry::Applied(receipt)) => Ok(Some(receipt)),
        _ => Ok(None),
    }
}

fn decoded(entries: &dyn Entries, key: &[u8]) -> Result<Option<Entry>, StoreError> {
    let Some(value) = entries.control(key)? else { return Ok(None) };
    Entry::decode(key, &value).map(Some).map_err(|error| damaged_entry(key, &error))
}

/// A control entry that cannot be right.
pub(crate) fn damaged_entry(key: &[u8], why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Damaged { what: format!("control entry {}: {why}", hex::encode(key)) }
}

/// A batch from its two entries, if they are what `digest` names.
pub(crate) fn checked_batch(
    chain: &ChainId,
    digest: &Digest,
    info: BatchInfo,
    body: Bytes,
) -> Result<Batch, StoreError> {
    let body = BatchBody::new(body);
    let length_agrees = body.bytes().len() == info.bytes as usize;
    if length_agrees && body.root() == info.root && info.digest(chain) == *digest {
        Ok(Batch { info, body })
    } else {
        Err(StoreError::Damaged { what: format!("batch {digest} differs from its digest") })
    }
}

/// A payload from its content, if it is what `digest` names.
pub(crate) fn checked_payload(
    chain: &ChainId,
    digest: &Digest,
    value: &[u8],
) -> Result<Payload, StoreError> {
    let damaged = |why: &dyn std::fmt::Display| StoreError::Damaged {
        what: format!("payload {digest}: {why}"),
    };
    let payload = schema::decode_payload(value).map_err(|error| damaged(&error))?;
    if payload.digest(chain) == *digest && payload.content.root() == payload.header.content_root {
        Ok(payload)
    } else {
        Err(damaged(&"differs from its digest"))
    }
}

/// What a reader finds through the index: what is indexed and cannot be found is damage.
pub(crate) fn located<T>(
    find: impl Fn() -> Option<Located>,
    load: impl Fn(Located) -> Result<Option<T>, StoreError>,
) -> Result<Option<T>, StoreError> {
    // Dropped while it is being read, a content leaves the index before it leaves the disk, so the
    // second look finds neither. Only one that is also written again meanwhile needs a third.
    const LOOKS: usize = 3;
    for _ in 0..LOOKS {
        let Some(located) = find() else { return Ok(None) };
        if let Some(found) = load(located)? {
            return Ok(Some(found));
        }
    }
    Err(StoreError::Damaged { what: "content in force is not where it was written".into() })
}
