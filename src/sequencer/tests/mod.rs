//! Scenarios on four sequencers joined without a shell: messages, groups and time move only when
//! the test says so.

mod absences;
mod batches;
mod collecting;
mod commits;
mod epochs;
mod interleavings;
mod leases;
mod net;
mod optimistic;
mod recovery;
mod sourcing;
mod subscribers;
mod window_model;
mod windows;
