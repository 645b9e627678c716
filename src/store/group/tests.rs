//! Groups alone.

use super::super::tests::{batch, batch_record, memory};
use super::*;
use crate::sequencer::port::{Reply, RequestId};

#[test]
fn what_is_promised_is_let_go_once_the_records_are_written_and_at_once_without_any() {
    let reply = || Promise::Reply { id: RequestId(1), reply: Reply::Unsubscribed };
    let mut store = memory();
    store.recover().unwrap();
    let record = batch_record(&batch(2, 1, 10, 50), true);
    let group = Group::new(7, vec![record], vec![reply(), reply()]);
    assert_eq!((group.sequence(), group.records().len()), (7, 1));
    let persisted = group.persist(&mut store).unwrap();
    assert_eq!((persisted.sequence, persisted.promises.len()), (7, 2));
    assert!(persisted.stats.content_bytes > 0 && store.reader().space().contents == 1);
    let persisted = Group::new(8, Vec::new(), vec![reply()]).persist(&mut store).unwrap();
    assert_eq!((persisted.sequence, persisted.stats), (8, CommitStats::default()));
    let released = persisted.promises.into_iter().map(Durable::release);
    assert!(released.into_iter().all(|released| matches!(released, Released::Other(_))));
}
