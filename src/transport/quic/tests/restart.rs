//! Peers that are killed: no close is sent, sockets just go away.

use std::{net::SocketAddr, time::Duration};

use ed25519_dalek::SigningKey;
use tokio::{
    runtime::Runtime,
    time::{Instant, timeout},
};

use super::{NOTICED, Node, QuicConfig, author, config, keys};
use crate::transport::{
    Class, LinkDown, Transport as _,
    testing::{PATIENCE, eventually, frame, peer},
};

/// A node on a runtime of its own, so that it can be killed with all its tasks.
struct Victim {
    runtime: Runtime,
    node: Node,
}

impl Victim {
    fn start(config: &QuicConfig, key: &SigningKey) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let node = {
            let _inside = runtime.enter();
            Node::start(config.clone(), key)
        };
        Self { runtime, node }
    }

    /// Ends every task where it is. Nothing is sent: nobody is left to send it.
    async fn kill(self) -> SocketAddr {
        let address = self.node.address();
        let (runtime, node) = (self.runtime, self.node);
        let killed = tokio::task::spawn_blocking(move || {
            drop(runtime);
            drop(node);
        });
        timeout(PATIENCE, killed).await.expect("dies in time").expect("dies without a panic");
        address
    }
}

/// A live node and a victim, linked. `victim_dials` says which has the lower key.
async fn linked_victim(victim_dials: bool) -> (Node, Victim, SigningKey) {
    let [low, high] = <[SigningKey; 2]>::try_from(keys(2)).expect("two");
    let (ours, theirs) = if victim_dials { (high, low) } else { (low, high) };
    let mut node = Node::start(config(), &ours);
    let mut victim = Victim::start(&config(), &theirs);
    node.know(&[&victim.node]);
    victim.node.know(&[&node]);
    assert_eq!(node.host.up().await.0, victim.node.key);
    assert_eq!(victim.node.host.up().await.0, node.key);
    (node, victim, theirs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_dialler_is_noticed_and_its_next_life_links() {
    let (mut node, victim, key) = linked_victim(true).await;
    victim.kill().await;
    let killed = Instant::now();
    let (peer, reason) = node.host.down().await;
    assert!(killed.elapsed() < NOTICED, "noticed after {:?}", killed.elapsed());
    assert_eq!(peer, author(&key));
    assert!(matches!(reason, LinkDown::Lost(_)), "{reason}");
    let mut victim = Victim::start(&config(), &key);
    victim.node.know(&[&node]);
    assert_eq!(node.host.up().await.0, victim.node.key);
    assert_eq!(victim.node.host.up().await.0, node.key);
    victim.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialler_that_is_killed_and_restarted_at_once_replaces_its_old_link() {
    let (mut node, victim, key) = linked_victim(true).await;
    victim.kill().await;
    let killed = Instant::now();
    let mut victim = Victim::start(&config(), &key);
    victim.node.know(&[&node]);
    let (_, reason) = node.host.down().await;
    assert!(matches!(&reason, LinkDown::Lost(text) if text.contains("replaced")), "{reason}");
    assert_eq!(node.host.up().await.0, victim.node.key);
    println!("transport/restart/dialler {:?}", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_millis(2500), "took {:?}", killed.elapsed());
    assert_eq!(victim.node.host.up().await.0, node.key);
    node.transport.send(victim.node.key, Class::Control, frame(10, 0)).expect("a link");
    assert_eq!(victim.node.host.frame().await.peer, node.key);
    victim.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acceptor_that_is_killed_and_restarted_resets_its_old_link() {
    let (mut node, victim, key) = linked_victim(false).await;
    let address = victim.kill().await;
    let killed = Instant::now();
    eventually("the port is free", || std::net::UdpSocket::bind(address).is_ok()).await;
    let mut victim = Victim::start(&QuicConfig { listen: address, ..config() }, &key);
    victim.node.know(&[&node]);
    let (_, reason) = node.host.down().await;
    assert!(matches!(&reason, LinkDown::Lost(text) if text.contains("restarted")), "{reason}");
    assert_eq!(node.host.up().await.0, victim.node.key);
    println!("transport/restart/acceptor {:?}", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_millis(2500), "took {:?}", killed.elapsed());
    assert_eq!(victim.node.host.up().await.0, node.key);
    victim.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_acceptor_is_redialled_at_the_address_of_its_next_life() {
    let (mut node, victim, key) = linked_victim(false).await;
    victim.kill().await;
    let killed = Instant::now();
    let (_, reason) = node.host.down().await;
    assert!(killed.elapsed() < NOTICED, "noticed after {:?}", killed.elapsed());
    assert!(matches!(reason, LinkDown::Lost(_)), "{reason}");
    let mut victim = Victim::start(&config(), &key);
    victim.node.know(&[&node]);
    node.transport.set_peers(vec![peer(author(&key), victim.node.address())]);
    assert_eq!(node.host.up().await.0, victim.node.key);
    assert_eq!(victim.node.host.up().await.0, node.key);
    victim.kill().await;
}
