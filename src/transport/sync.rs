//! Locks that survive a panic of another holder.
//!
//! Every critical section of this module leaves its data whole at each step, so a poisoned lock
//! says nothing about the data, and a second panic would only hide the first.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
