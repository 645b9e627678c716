//! What a validator that runs, but does not get on, is waiting for: part of health and readiness.

use tokio::sync::watch;

/// One part's side: says what it waits for, once it has waited for long.
#[derive(Debug)]
pub struct Waiting(watch::Sender<Option<String>>);

/// The side of whoever asks.
#[derive(Clone, Debug)]
pub struct Waits(Vec<watch::Receiver<Option<String>>>);

impl Waiting {
    /// It waits for this.
    pub fn for_what(&self, what: String) {
        tracing::warn!("waiting: {what}");
        self.0.send_replace(Some(what));
    }

    /// It got what it waited for, if it did.
    pub fn over(&self) {
        self.0.send_if_modified(|what| what.take().is_some());
    }
}

impl Waits {
    /// So many parts, none of which waits.
    pub fn new<const PARTS: usize>() -> ([Waiting; PARTS], Self) {
        let parts = [(); PARTS].map(|()| Waiting(watch::Sender::new(None)));
        let waits = parts.iter().map(|part| part.0.subscribe()).collect();
        (parts, Self(waits))
    }

    /// What the first part that waits is waiting for.
    pub fn first(&self) -> Option<String> {
        self.0.iter().find_map(|part| part.borrow().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_any_part_waits_for_is_told_until_it_is_over() {
        let ([one, two], waits) = Waits::new::<2>();
        assert_eq!(waits.first(), None);
        two.for_what("content".to_owned());
        assert_eq!(waits.first().as_deref(), Some("content"));
        one.for_what("a block".to_owned());
        two.over();
        assert_eq!(waits.first().as_deref(), Some("a block"));
        one.over();
        assert_eq!(waits.first(), None);
    }
}
