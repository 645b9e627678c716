//! Chapters for people: the same text that lies in `docs/` of the repository.

pub mod guarantees;
pub mod operators;
