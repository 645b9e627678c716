//! What a list of operations may hold. Numbers choose among a few values, so that operations meet.

use arbitrary::Arbitrary;

/// A run of one validator.
#[derive(Arbitrary, Debug)]
pub struct Case {
    /// True if every step's group is taken at once; false if groups gather until they are written.
    pub eager: bool,
    /// True if links are up, windows wide and ids reserved before the first operation.
    pub warm: bool,
    /// In this order.
    pub operations: Vec<Operation>,
}

/// A batch of somebody.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub struct BatchCase {
    /// Its author.
    pub author: u8,
    /// Of its author's store.
    pub incarnation: u8,
    /// Its number.
    pub counter: u8,
    /// Relative to what is the latest allowed.
    pub expiration: u8,
    /// Of its one transaction.
    pub size: u8,
    /// Mostly 0.
    pub epoch: u8,
}

/// A payload of somebody.
#[derive(Arbitrary, Debug, Clone)]
pub struct PayloadCase {
    /// A payload before it, mostly the last one.
    pub parent: u8,
    /// Mostly the parent's plus one.
    pub height: u8,
    /// After the parent's.
    pub later: u8,
    /// Which batches it orders.
    pub batches: Vec<u8>,
    /// True if its proofs do not verify.
    pub invalid: bool,
}

/// Something happens.
#[derive(Arbitrary, Debug)]
#[allow(missing_docs, reason = "the fields choose arguments of the input that the variant names")]
pub enum Operation {
    LinkUp {
        peer: u8,
        window: u8,
    },
    LinkDown {
        peer: u8,
    },
    Announce {
        peer: u8,
        window: u8,
        released: u8,
    },
    Batch {
        from: u8,
        batch: BatchCase,
    },
    BatchAgain {
        from: u8,
        which: u8,
    },
    Vote {
        signer: u8,
        which: u8,
    },
    Proof {
        which: u8,
    },
    Payload {
        from: u8,
        payload: PayloadCase,
    },
    PayloadAgain {
        from: u8,
        which: u8,
    },
    FetchedBatch {
        from: u8,
        which: u8,
    },
    FetchMissing {
        from: u8,
        which: u8,
    },
    Submit {
        count: u8,
        size: u8,
        price: u8,
        life: u8,
    },
    Pull {
        parent: u8,
        height: u8,
        later: u8,
        limit: u8,
        exclude: u8,
    },
    Verify {
        which: u8,
        parent: u8,
    },
    Commit {
        which: u8,
        wrong: u8,
    },
    /// A batch of ours is sealed, written, and signed by some.
    OwnBatch {
        size: u8,
        votes: u8,
    },
    /// Time passes, a payload is proposed, verified and committed: what mostly happens.
    Block {
        later: u8,
    },
    Fetch {
        which: u8,
        deadline: u8,
    },
    Acknowledge {
        subscriber: u8,
        next: u8,
    },
    Subscribe {
        subscriber: u8,
        back: u8,
    },
    Delivered {
        which: u8,
        back: u8,
    },
    Detach {
        which: u8,
    },
    Unsubscribe {
        subscriber: u8,
    },
    Cancel {
        which: u8,
    },
    Write,
    Written,
    Crash {
        written: bool,
    },
    Space {
        admits: bool,
    },
    Status,
    Advance {
        by: u8,
    },
    WallJump {
        by: i8,
    },
    SourceReady,
    Transactions {
        count: u8,
        size: u8,
        price: u8,
        life: u8,
    },
    Seen {
        which: u8,
    },
    BadVote {
        peer: u8,
    },
}
