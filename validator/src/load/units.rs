//! Reads the quantities of the command line: durations with their unit, rates.

use std::num::NonZeroU32;
use std::time::Duration;

const DURATION_MAX: Duration = Duration::from_hours(7 * 24);

/// Transactions per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// This many, on a fixed schedule, whatever the validators answer.
    PerSecond(NonZeroU32),
    /// As many as are accepted.
    Max,
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PerSecond(rate) => write!(f, "{rate} transactions/s"),
            Self::Max => f.write_str("as many as are accepted"),
        }
    }
}

/// Reads a rate: a whole number above zero, or `max`.
pub fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    text.parse()
        .map(Rate::PerSecond)
        .map_err(|_| "a rate is a whole number of transactions per second, or `max`".to_owned())
}

/// Reads a duration as configs write it: `500ms`, `30s`, `2m`. Above zero, at most a week.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; a duration is such as 500ms, 30s or 2m"))?;
    if duration.is_zero() {
        return Err("a duration is above zero".to_owned());
    }
    if duration > DURATION_MAX {
        return Err("a duration is at most a week".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit_and_is_bounded() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(parse_duration("168h"), Ok(Duration::from_hours(168)));
        for refused in ["", "30", "s", "0s", "-1s", "1.5parsecs", "169h", "18446744073709551615h"] {
            assert!(parse_duration(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_rate_is_a_number_above_zero_or_max() {
        assert_eq!(parse_rate("max"), Ok(Rate::Max));
        assert!(matches!(parse_rate("20000"), Ok(Rate::PerSecond(rate)) if rate.get() == 20_000));
        for refused in ["", "0", "-1", "fast", "1e3"] {
            assert!(parse_rate(refused).is_err(), "{refused}");
        }
    }
}
