#![doc = include_str!("../../docs/operators.md")]
