//! Bad days: what goes wrong, when, and how it ends. Every kind is counted when it fires.

use super::cluster::{Cluster, Event};
use super::store::Tear;

/// Longest outage of one validator in microseconds. Shorter than the grace of content: who is away
/// for longer needs state sync.
const OUTAGE: u64 = 8_000_000;

/// How a fault ends.
#[derive(Debug)]
pub(super) enum Healing {
    Paths(Vec<(usize, usize)>),
    SlowLink(usize),
    SlowDisk(usize),
    Space(usize),
    Follower(usize, usize),
}

impl Cluster {
    pub(super) fn on_fault(&mut self) {
        if !self.is_stormy() {
            return;
        }
        let mean = self.options.fault_interval.as_micros() as u64;
        let micros = self.rng.u64(1..mean * 2);
        self.after(micros, Event::Fault);
        let node = self.rng.usize(..self.nodes.len());
        match self.rng.u32(..14) {
            0..=2 => self.fault_crash(node),
            3 => self.fault_crash_all(),
            4 | 5 => self.fault_partition(node),
            6 => self.fault_one_way(node),
            7 => self.fault_link(node),
            8 => self.fault_slow_link(node),
            9 => self.fault_slow_disk(node),
            10 => self.fault_disk(node),
            11 | 12 => self.fault_follower(node),
            _ => self.fault_space_or_clock(node),
        }
    }

    fn tear(&mut self) -> Tear {
        Tear::ALL[self.rng.usize(..Tear::ALL.len())]
    }

    fn fault_crash(&mut self, node: usize) {
        if self.nodes[node].running.is_none() {
            return;
        }
        self.trace.count("crash");
        let tear = self.tear();
        self.crash(node, tear);
        let micros = self.rng.u64(1000..OUTAGE);
        self.after(micros, Event::Restart { node });
    }

    fn fault_crash_all(&mut self) {
        self.trace.count("power cut everywhere");
        for node in 0..self.nodes.len() {
            let tear = self.tear();
            if self.nodes[node].running.is_some() {
                self.crash(node, tear);
                let micros = self.rng.u64(1000..3_000_000);
                self.after(micros, Event::Restart { node });
            }
        }
    }

    fn fault_partition(&mut self, node: usize) {
        self.trace.count("full partition");
        let mut paths = Vec::new();
        for peer in self.network.peers(node) {
            paths.extend([(node, peer), (peer, node)]);
            if self.rng.bool() {
                self.break_link(node, peer, 4_000_000);
            }
        }
        self.cut(paths);
    }

    fn fault_one_way(&mut self, node: usize) {
        self.trace.count("one-way partition");
        let peers: Vec<_> = self.network.peers(node).collect();
        let peer = peers[self.rng.usize(..peers.len())];
        self.cut(vec![(node, peer)]);
    }

    fn cut(&mut self, paths: Vec<(usize, usize)>) {
        self.network.cut.extend(&paths);
        let micros = self.rng.u64(100_000..OUTAGE);
        self.after(micros, Event::Heal { what: Healing::Paths(paths) });
    }

    fn fault_link(&mut self, node: usize) {
        self.trace.count("link lost");
        let peers: Vec<_> = self.network.peers(node).collect();
        let peer = peers[self.rng.usize(..peers.len())];
        self.break_link(node, peer, 1_000_000);
    }

    fn fault_slow_link(&mut self, node: usize) {
        self.trace.count("slow link");
        let micros = self.rng.u64(50_000..800_000);
        self.network.slow.insert(node, micros);
        let micros = self.rng.u64(100_000..OUTAGE);
        self.after(micros, Event::Heal { what: Healing::SlowLink(node) });
    }

    fn fault_slow_disk(&mut self, node: usize) {
        self.trace.count("slow disk");
        self.nodes[node].slow_disk = self.rng.u64(100_000..3_000_000);
        let micros = self.rng.u64(100_000..OUTAGE);
        self.after(micros, Event::Heal { what: Healing::SlowDisk(node) });
    }

    fn fault_disk(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        if let (Some(store), true) = (&mut node.store, node.running.is_some()) {
            self.trace.count("disk about to fail");
            store.fail();
        }
    }

    fn fault_space_or_clock(&mut self, node: usize) {
        if self.rng.bool() {
            self.trace.count("disk nearly full");
            self.input(node, crate::sequencer::port::Input::Space { admits: false });
            let micros = self.rng.u64(100_000..OUTAGE);
            self.after(micros, Event::Heal { what: Healing::Space(node) });
            return;
        }
        self.trace.count("clock jump");
        let most = self.genesis.parameters.clock_allowance_micros.cast_signed() / 2;
        self.nodes[node].skew = self.rng.i64(-most..=most);
    }

    pub(super) fn on_heal(&mut self, what: &Healing) {
        match what {
            Healing::Paths(paths) => {
                for path in paths {
                    self.network.cut.remove(path);
                }
            }
            Healing::SlowLink(node) => drop(self.network.slow.remove(node)),
            Healing::Follower(node, which) => self.resume(*node, *which),
            Healing::SlowDisk(node) => self.nodes[*node].slow_disk = 0,
            Healing::Space(node) => {
                self.input(*node, crate::sequencer::port::Input::Space { admits: true });
            }
        }
    }
}
