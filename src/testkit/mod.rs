//! Pieces for testing this crate and whoever embeds it. Nothing here belongs into production.
pub mod fuzzing;
