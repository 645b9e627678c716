//! What is kept of an own batch's transactions beside their bytes: neighbours that agree, once.
//!
//! Clients send many at a price, to expire together, so a batch of a thousand transactions has a few
//! runs of equal ones. Each would take 16 bytes in memory and in the journal as long as the batch is
//! kept; a run takes 20. Only the shortest form is read back, and no more than a batch can hold.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::sequencer::port::TransactionMeta;
use crate::types::genesis::BATCH_TRANSACTIONS_LIMIT;

/// Neighbours that agree.
#[derive(Serialize, Deserialize)]
struct Run {
    /// How many.
    count: u32,
    /// Of each of them.
    meta: TransactionMeta,
}

#[expect(clippy::ref_option, reason = "the form that serde calls")]
pub fn serialize<S: Serializer>(
    metas: &Option<Arc<[TransactionMeta]>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let runs = metas.as_ref().map(|metas| {
        let runs = metas.chunk_by(PartialEq::eq);
        // Proof of the cast: a batch has far fewer transactions.
        runs.map(|run| Run { count: run.len() as u32, meta: run[0] }).collect::<Vec<_>>()
    });
    runs.serialize(serializer)
}

pub fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Arc<[TransactionMeta]>>, D::Error> {
    let Some(runs) = Option::<Vec<Run>>::deserialize(deserializer)? else { return Ok(None) };
    let total: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
    if total > u64::from(BATCH_TRANSACTIONS_LIMIT) {
        return Err(de::Error::custom("more transactions than a batch holds"));
    }
    let shortest = runs.windows(2).all(|pair| pair[0].meta != pair[1].meta);
    if !shortest || runs.iter().any(|run| run.count == 0) {
        return Err(de::Error::custom("not the shortest form"));
    }
    let each = runs.iter().flat_map(|run| std::iter::repeat_n(run.meta, run.count as usize));
    Ok(Some(each.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Timestamp;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Holder(#[serde(with = "super")] Option<Arc<[TransactionMeta]>>);

    fn meta(price: u64) -> TransactionMeta {
        TransactionMeta { gas_unit_price: price, expiration: Timestamp(7) }
    }

    fn of_runs(runs: &[(u32, u64)]) -> Vec<u8> {
        let runs = runs.iter().map(|(count, price)| Run { count: *count, meta: meta(*price) });
        bcs::to_bytes(&Some(runs.collect::<Vec<_>>())).unwrap()
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        // Every sequence of up to six of two kinds, as the bits of a number.
        let some = (1_u64..128).map(|bits| {
            let kinds = (0..bits.ilog2()).map(|at| meta(bits >> at & 1));
            Some(kinds.collect::<Arc<[_]>>())
        });
        for metas in some.chain([None]) {
            let holder = Holder(metas);
            let bytes = bcs::to_bytes(&holder).unwrap();
            assert_eq!(bcs::from_bytes::<Holder>(&bytes).unwrap(), holder);
        }
    }

    #[test]
    fn equal_neighbours_are_kept_once() {
        let metas = [vec![meta(1); 1_000], vec![meta(2)], vec![meta(1)]].concat();
        let holder = Holder(Some(metas.into()));
        let bytes = bcs::to_bytes(&holder).unwrap();
        assert_eq!(bytes, of_runs(&[(1_000, 1), (1, 2), (1, 1)]));
        assert_eq!(bytes.len(), 2 + 3 * 20);
    }

    #[test]
    fn what_is_not_the_shortest_form_or_too_much_is_refused() {
        let decoded = |runs: &[(u32, u64)]| bcs::from_bytes::<Holder>(&of_runs(runs));
        let most = BATCH_TRANSACTIONS_LIMIT;
        let cases: [(&[(u32, u64)], bool); 6] = [
            (&[(most, 1)], true),
            (&[(most, 1), (1, 2)], false),
            (&[(u32::MAX, 1), (u32::MAX, 2)], false),
            (&[(1, 1), (1, 1)], false),
            (&[(0, 1)], false),
            (&[], true),
        ];
        for (runs, sound) in cases {
            assert_eq!(decoded(runs).is_ok(), sound, "{runs:?}");
        }
    }
}
