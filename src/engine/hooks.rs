//! What a host may bring beside its config: a source of transactions, and a filter.

use std::fmt;
use std::sync::Arc;

use super::filter::Filter;
use super::source::TransactionSource;

/// See the module docs. Without any, transactions come from submissions only, and all pass.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Hooks {
    /// Its mempool.
    pub source: Option<Arc<dyn TransactionSource>>,
    /// What it will not batch or sign for.
    pub filter: Option<Arc<dyn Filter>>,
}

impl Hooks {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Transactions are pulled from this source, beside those that are submitted.
    #[must_use]
    pub fn with_source(mut self, source: Arc<dyn TransactionSource>) -> Self {
        self.source = Some(source);
        self
    }

    /// This filter is asked about transactions and batches.
    #[must_use]
    pub fn with_filter(mut self, filter: Arc<dyn Filter>) -> Self {
        self.filter = Some(filter);
        self
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, filter) = (self.source.is_some(), self.filter.is_some());
        f.debug_struct("Hooks").field("source", &source).field("filter", &filter).finish()
    }
}
