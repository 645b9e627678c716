//! Why a link is refused, and why it went down.
//!
//! A [`Refusal`] travels: it is the error code with which a link is closed, so both ends show the
//! same reason. Codes are part of the wire format and never change their meaning; a code this
//! version does not know is kept as [`Refusal::Unknown`].

/// Why one end does not want this link. Its code is told to the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The peer is of another chain (another genesis). Check its configuration.
    #[error("it is of another chain")]
    ChainMismatch,
    /// The peer has another committee for this epoch.
    #[error("it has another committee")]
    CommitteeMismatch,
    /// What the peer sent cannot be decoded, or breaks the framing.
    #[error("what it sent is malformed")]
    Malformed,
    /// The peer speaks another version of the protocol.
    #[error("it speaks another version")]
    Version,
    /// The key is not in the set of peers, or is not the one that was dialled.
    #[error("its key is not in the set of peers")]
    UnknownKey,
    /// A link of this key is alive already: two processes run with one key.
    #[error("a link of this key is alive already")]
    SecondLink,
    /// Too many messages that decode but are invalid.
    #[error("it sent too many invalid messages")]
    Abuse,
    /// A frame or hello larger than the limit.
    #[error("it sent more than the limit")]
    Oversized,
    /// The higher key dialled; the lower one does.
    #[error("the end with the higher key must not dial")]
    WrongDirection,
    /// The hello or its acceptance did not arrive in time.
    #[error("the handshake took too long")]
    Timeout,
    /// It is being rebuilt inside its process: dial again.
    #[error("it restarts")]
    Restarted,
    /// A code that this version does not know.
    #[error("unknown code {0}")]
    Unknown(u32),
}

impl From<Refusal> for u32 {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::ChainMismatch => 1,
            Refusal::CommitteeMismatch => 2,
            Refusal::Malformed => 3,
            Refusal::Version => 4,
            Refusal::UnknownKey => 5,
            Refusal::SecondLink => 6,
            Refusal::Abuse => 7,
            Refusal::Oversized => 8,
            Refusal::WrongDirection => 9,
            Refusal::Timeout => 10,
            Refusal::Restarted => 11,
            Refusal::Unknown(code) => code,
        }
    }
}

impl From<u32> for Refusal {
    fn from(code: u32) -> Self {
        match code {
            1 => Self::ChainMismatch,
            2 => Self::CommitteeMismatch,
            3 => Self::Malformed,
            4 => Self::Version,
            5 => Self::UnknownKey,
            6 => Self::SecondLink,
            7 => Self::Abuse,
            8 => Self::Oversized,
            9 => Self::WrongDirection,
            10 => Self::Timeout,
            11 => Self::Restarted,
            code => Self::Unknown(code),
        }
    }
}

/// Why a link, or an attempt at one, ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkDown {
    /// This end did not want it.
    #[error("refused by us: {0}")]
    RefusedByUs(Refusal),
    /// The other end did not want it.
    #[error("refused by the peer: {0}")]
    RefusedByPeer(Refusal),
    /// It broke: a timeout, a restart of the peer, an error of the network. The text is for people.
    #[error("lost: {0}")]
    Lost(String),
    /// One end shut down in order.
    #[error("closed")]
    Closed,
}

impl LinkDown {
    /// The code for an orderly close.
    const CLOSED_CODE: u32 = 0;

    /// What the other end is told when this end closes for this reason.
    pub(super) fn code(&self) -> u32 {
        match self {
            Self::RefusedByUs(refusal) => u32::from(*refusal),
            Self::RefusedByPeer(_) | Self::Lost(_) | Self::Closed => Self::CLOSED_CODE,
        }
    }

    /// What it means when the other end closed with this code.
    pub(super) fn by_peer(code: u32) -> Self {
        if code == Self::CLOSED_CODE {
            Self::Closed
        } else {
            Self::RefusedByPeer(Refusal::from(code))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_the_wire() {
        for code in 1..64 {
            assert_eq!(u32::from(Refusal::from(code)), code);
            assert_eq!(LinkDown::by_peer(code), LinkDown::RefusedByPeer(Refusal::from(code)));
        }
        assert_eq!(LinkDown::by_peer(0), LinkDown::Closed);
        assert_eq!(Refusal::from(3), Refusal::Malformed, "codes never change their meaning");
        assert_eq!(u32::from(Refusal::Timeout), 10);
    }
}
