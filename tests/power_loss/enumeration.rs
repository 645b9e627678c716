//! The power goes before every operation of a life, in every variant, and again during recovery.
//!
//! Each run starts from the same disk and book, lives until the power goes before operation N,
//! and starts again on what survived. N counts from opening on, so recovery is cut like the rest.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use quorum_store::engine::{StartError, StopCause};
use quorum_store::store::check::check;
use quorum_store::store::{Store as _, StoreError};
use tokio::runtime::Runtime;

use super::flows::{Life, Script};
use super::fs::{Disk, Draw, Kind, Power, Variant};
use super::harness::Context;
use super::town::{Town, create, open, released, start, store_path, within};
use super::witness::{Book, Witness};

/// Runs at once, each on a disk of its own: a failed flush keeps the database waiting for a second.
pub const LANES: usize = 6;

/// The second cut falls among the first so many operations, which is about a recovery.
const RECOVERY_OPERATIONS: u64 = 90;

/// Where a run starts.
#[derive(Clone, Default)]
pub struct Start {
    pub disk: Disk,
    pub book: Book,
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A created store that holds nothing.
pub fn empty(context: &Context, name: &str) -> Start {
    let disk = context.mount.disk(name);
    create(disk.path()).unwrap();
    Start { disk: disk.look(|disk| disk.surviving(Variant::Clean)), book: Book::default() }
}

/// A store that a whole life has left behind when the power went.
pub fn lived(context: &Context, name: &str) -> Start {
    let Start { disk, book } = empty(context, name);
    let (disk, witness) = (context.mount.insert(name, disk), Witness::going_on(&book));
    runtime().block_on(async {
        let town = Town::start().await;
        let script = Script { bulk: true, delete: false };
        live(&town, &disk, &witness, script).await.unwrap();
        town.stop().await;
    });
    let book = witness.book().clone();
    Start { disk: disk.look(|disk| disk.surviving(Variant::Clean)), book }
}

/// Why a life ended that was not over.
#[derive(Debug)]
pub enum Failed {
    Open(StoreError),
    Start(StartError),
    Live(StopCause),
}

/// One life: opens, runs the script, stops and closes.
pub async fn live(
    town: &Town,
    disk: &Power,
    witness: &Witness,
    script: Script,
) -> Result<(), Failed> {
    let store = open(disk.path()).map_err(Failed::Open)?;
    let node = start(&town.network, store, witness).await.map_err(Failed::Start)?;
    let lived = Life { town, node: &node, witness }.run(script).await;
    within("the engine stops", node.shutdown()).await;
    drop(node);
    released(disk.path()).await;
    lived.map_err(Failed::Live)
}

/// A life that only starts, repeats what was promised, and accepts one more transaction.
pub async fn hold_to(town: &Town, disk: &Power, witness: &Witness) -> Result<(), Failed> {
    let store = open(disk.path()).map_err(Failed::Open)?;
    let node = start(&town.network, store, witness).await.map_err(Failed::Start)?;
    let lost = witness.book().lost(&*node.reader());
    // What cannot be read because the power is gone again is looked for after that.
    assert!(lost.is_empty() || disk.look(|disk| disk.dead), "LOST: {lost:#?}");
    let life = Life { town, node: &node, witness };
    let repeated = async {
        life.repeat().await?;
        life.author().await.map(drop)
    };
    let repeated = tokio::select! {
        repeated = within("repeating what was promised", repeated) => repeated,
        cause = node.stopped() => Err(cause),
    };
    within("the engine stops", node.shutdown()).await;
    drop(node);
    released(disk.path()).await;
    repeated.map_err(Failed::Live)
}

/// Nothing is wrong between the records.
pub fn checked(disk: &Power) {
    let report = check(&store_path(disk.path())).unwrap();
    assert!(report.is_sound(), "not sound: {:?}", report.problems);
}

/// What happens after a life ended before an operation, and before what survives is looked at.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// The power goes.
    Cut,
    /// The power goes, and goes again during recovery.
    CutTwice,
    /// Only the process dies. Another one finds what was written, synced or not, promises what it
    /// finds, and then the power goes.
    KillRestartCut,
}

/// One run: a life that ends early, and what must be there then.
struct Run<'a> {
    context: &'a Context,
    disk: Power,
    variant: Variant,
    script: Script,
    then: Then,
    /// What was never done because of a cut.
    kinds: &'a Mutex<BTreeSet<Kind>>,
}

impl Run<'_> {
    /// False if the life was over before operation `number`.
    async fn cut_before(&self, start: &Start, number: u64) -> bool {
        let (town, witness) = (Town::start().await, Witness::going_on(&start.book));
        self.disk.cut_at(number);
        let lived = live(&town, &self.disk, &witness, self.script).await;
        let died = self.disk.look(|disk| disk.died_at);
        assert!(lived.is_ok() || died.is_some(), "failed without a cut: {lived:?}");
        match self.then {
            Then::Cut => {}
            Then::CutTwice => {
                self.disk.cut(self.variant);
                self.disk.cut_at(Draw::new(number).next() % RECOVERY_OPERATIONS);
                let held = hold_to(&town, &self.disk, &witness).await;
                let died = self.disk.look(|disk| disk.dead);
                assert!(held.is_ok() || died, "no recovery, and no second cut: {held:?}");
                self.context.survived(0);
            }
            Then::KillRestartCut => {
                self.disk.kill();
                let held = hold_to(&town, &self.disk, &witness).await;
                held.unwrap_or_else(|error| panic!("cannot go on after a kill: {error:?}"));
            }
        }
        self.disk.cut(self.variant);
        let held = hold_to(&town, &self.disk, &witness).await;
        held.unwrap_or_else(|error| panic!("cannot go on: {error:?}"));
        self.kinds.lock().unwrap().extend(died.map(|(_, kind)| kind));
        checked(&self.disk);
        town.stop().await;
        self.context.survived(witness.book().promises());
        died.is_some()
    }
}

/// Many runs from one start.
struct Enumeration<'a> {
    name: &'a str,
    start: Start,
    /// Every so many operations.
    stride: u64,
    script: Script,
    then: Then,
}

impl Enumeration<'_> {
    /// Every variant, until a run is over before its cut.
    fn run(&self, context: &Context) {
        let kinds = Mutex::default();
        for (index, variant) in variants(context).into_iter().enumerate() {
            let (next, done) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
            thread::scope(|scope| {
                for lane in 0..LANES {
                    let (next, done, kinds) = (&next, &done, &kinds);
                    scope.spawn(move || {
                        let runtime = runtime();
                        while done.load(Ordering::Relaxed) == u64::MAX {
                            // Another offset for each variant, so that strides do not coincide.
                            let number = next.fetch_add(1, Ordering::Relaxed) * self.stride
                                + index as u64 % self.stride;
                            if !self.one(
                                (context, kinds),
                                &runtime,
                                lane,
                                (number, variant(number)),
                            ) {
                                done.fetch_min(number, Ordering::Relaxed);
                            }
                        }
                    });
                }
            });
            let operations = done.load(Ordering::Relaxed);
            println!("  {}, variant {index}: {operations} operations", self.name);
        }
        let kinds = kinds.into_inner().unwrap();
        if self.stride == 1 {
            let all = [Kind::Write, Kind::Create, Kind::Fsync, Kind::FsyncDirectory, Kind::Rename];
            let never: Vec<_> = all.iter().filter(|kind| !kinds.contains(kind)).collect();
            assert!(never.is_empty(), "no cut before any {never:?}: the flow shrank");
        }
    }

    /// False if the life was over before operation `number`.
    fn one(
        &self,
        (context, kinds): (&Context, &Mutex<BTreeSet<Kind>>),
        runtime: &Runtime,
        lane: usize,
        (number, variant): (u64, Variant),
    ) -> bool {
        let Self { name, start, script, then, .. } = self;
        let disk = context.mount.insert(&format!("{name}-{lane}"), start.disk.clone());
        let run = Run { context, disk, variant, script: *script, then: *then, kinds };
        let at = format!("{name}: {variant:?} before operation {number}");
        told(&at, || runtime.block_on(run.cut_before(start, number)))
    }
}

/// Says where a run failed before it fails.
pub fn told<T>(at: &str, run: impl FnOnce() -> T) -> T {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    result.unwrap_or_else(|panic| {
        eprintln!("power loss: failed at {at}");
        std::panic::resume_unwind(panic)
    })
}

/// What the cut before an operation leaves. What is torn is drawn, so that is drawn more than once.
fn variants(context: &Context) -> Vec<fn(u64) -> Variant> {
    let torn: [fn(u64) -> Variant; 5] = [
        Variant::Torn,
        |number| Variant::Torn(number | 1 << 32),
        |number| Variant::Torn(number | 2 << 32),
        |number| Variant::Torn(number | 3 << 32),
        |number| Variant::Torn(number | 4 << 32),
    ];
    let drawn = context.full_or(torn.len(), 1);
    let mut variants: Vec<fn(u64) -> Variant> = vec![|_| Variant::Clean, |_| Variant::NamesLost];
    variants.extend(&torn[..drawn]);
    variants
}

/// Author, receive and sign, proof, vote, commit with acks, on a store without content, until its
/// journal has grown.
pub fn every_promise_of_a_first_life_survives_every_cut(context: &Context) {
    let (name, stride) = ("first", context.full_or(1, 6));
    let (start, script) = (empty(context, name), Script { bulk: true, delete: false });
    Enumeration { name, start, stride, script, then: Then::Cut }.run(context);
}

/// The same on a store with content, with flushes and deletions, recovery cut like the rest.
pub fn every_promise_of_a_later_life_survives_every_cut(context: &Context) {
    let (name, stride) = ("later", context.full_or(1, 8));
    let (start, script) = (lived(context, name), Script { bulk: true, delete: true });
    Enumeration { name, start, stride, script, then: Then::Cut }.run(context);
}

/// The power goes again while the store recovers from the first cut.
pub fn every_promise_survives_a_second_cut_during_recovery(context: &Context) {
    let (name, stride) = ("twice", context.full_or(1, 10));
    let (start, script) = (lived(context, name), Script { bulk: true, delete: false });
    Enumeration { name, start, stride, script, then: Then::CutTwice }.run(context);
}

/// Opening ends with a barrier: what a killed process had written and not synced is durable before
/// anything is promised on top of it.
pub fn every_promise_survives_a_kill_a_restart_and_then_a_cut(context: &Context) {
    let (name, stride) = ("killed", context.full_or(1, 8));
    let (start, script) = (lived(context, name), Script { bulk: true, delete: false });
    Enumeration { name, start, stride, script, then: Then::KillRestartCut }.run(context);
}

/// A store is there after `create` returned, and creating can be repeated until then.
pub fn creating_a_store_can_be_cut_anywhere(context: &Context) {
    let stride = context.full_or(1, 4);
    for variant in variants(context) {
        for number in (0..).step_by(stride) {
            let disk = context.mount.disk("create");
            disk.cut_at(number);
            let created = create(disk.path());
            let died = disk.look(|disk| disk.dead);
            disk.cut(variant(number));
            told(&format!("creating, before operation {number}"), || {
                if created.is_err() {
                    assert!(died, "{created:?}");
                    let repeated = create(disk.path());
                    let again = matches!(repeated, Ok(()) | Err(StoreError::Exists(_)));
                    assert!(again, "{repeated:?}");
                }
                open(disk.path()).unwrap().recover().unwrap();
                checked(&disk);
            });
            context.survived(u64::from(created.is_ok()));
            if !died {
                break;
            }
        }
    }
}
