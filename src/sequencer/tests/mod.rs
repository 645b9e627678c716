//! Scenarios on four sequencers joined without a shell: messages, groups and time move only when
//! the test says so.

mod absences;
mod batches;
mod collecting;
mod commits;
mod epochs;
mod evidence;
mod interleavings;
mod leases;
mod measures;
mod net;
mod optimistic;
mod recovery;
mod refetching;
mod restarts;
mod sourcing;
mod subscribers;
mod window_model;
mod windows;
