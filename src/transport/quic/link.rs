//! From a connection to a link: the exchange of hellos, then the four tasks that carry frames.
//!
//! # How a link ends
//!
//! The end that ends a link resets its streams with the code of the reason, gives the peer a moment
//! to answer with a close, and then closes the connection with the same code. The close alone would
//! not do: the library does not send it while data is pending and the congestion window is full,
//! and processes no acknowledgement that would free the window, so a loaded link would break
//! without a reason. A reset drops the pending data and is repeated until it arrives. A stream
//! that is dropped ends in order instead, so every path that gives up a stream resets it first.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quinn::{Connection, SendStream, VarInt, WriteError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    stream::{FrameReader, connection_failed, read_frames, write_failed, write_frames},
};
use crate::transport::{
    Class, HELLO_BYTES_MAX, LinkDown, Refusal,
    link::{Link, Path, PathReport},
    peers::PeerSlot,
};

/// Says that the other end's hello was accepted.
const ACCEPTED: [u8; 4] = *b"qsok";

/// How long the end that ends a link waits for the peer's answer before it closes the connection.
pub(super) const LINGER: Duration = Duration::from_millis(200);

/// Priorities of our streams: a higher one is sent first.
const fn priority(class: Class) -> i32 {
    match class {
        Class::Control => 1,
        Class::Bulk => 0,
    }
}

/// A connection on which both hellos have been accepted.
pub(super) struct Greeted {
    hello: Bytes,
    control_out: SendStream,
    control_in: FrameReader,
}

/// A link and whose it is.
#[derive(Clone)]
pub(super) struct LinkSide {
    pub(super) slot: Arc<PeerSlot>,
    pub(super) link: Arc<Link>,
}

/// Exchanges hellos, within the deadline and unless `give_up` has something against it. On `Err`
/// the caller closes the connection.
pub(super) async fn greet(
    shared: &Shared,
    slot: &PeerSlot,
    connection: &Connection,
    give_up: impl Future<Output = LinkDown>,
) -> Result<Greeted, LinkDown> {
    let give_up = async {
        tokio::select! {
            reason = give_up => reason,
            () = tokio::time::sleep(shared.config.handshake_timeout) => {
                LinkDown::RefusedByUs(Refusal::Timeout)
            }
        }
    };
    tokio::pin!(give_up);
    // A peer that allows no streams must not hold us here.
    let mut control_out = tokio::select! {
        reason = &mut give_up => return Err(reason),
        stream = open(connection, Class::Control) => stream?,
    };
    let exchanged = tokio::select! {
        reason = give_up => Err(reason),
        exchanged = exchange(shared, slot, connection, &mut control_out) => exchanged,
    };
    match exchanged {
        Ok((hello, control_in)) => Ok(Greeted { hello, control_out, control_in }),
        Err(reason) => {
            reset(&mut control_out, &reason);
            Err(reason)
        }
    }
}

async fn exchange(
    shared: &Shared,
    slot: &PeerSlot,
    connection: &Connection,
    control_out: &mut SendStream,
) -> Result<(Bytes, FrameReader), LinkDown> {
    let ours = shared.handshake.hello(slot.key());
    if ours.len() > HELLO_BYTES_MAX {
        tracing::error!(bytes = ours.len(), max = HELLO_BYTES_MAX, "our hello is too large");
        return Err(LinkDown::RefusedByUs(Refusal::Oversized));
    }
    let length = Bytes::copy_from_slice(&(ours.len() as u32).to_le_bytes());
    let written = control_out.write_all_chunks(&mut [length, ours]).await;
    said(written)?;

    let stream = connection.accept_uni().await.map_err(|error| connection_failed(&error))?;
    let mut control_in = FrameReader::new(stream);
    let length = control_in.length(HELLO_BYTES_MAX).await?;
    let hello = control_in.bytes(length).await?;
    shared.handshake.judge(slot.key(), &hello).map_err(LinkDown::RefusedByUs)?;

    let written = control_out.write_all(&ACCEPTED).await;
    said(written)?;
    if control_in.word().await? != ACCEPTED {
        return Err(LinkDown::RefusedByUs(Refusal::Malformed));
    }
    Ok((hello, control_in))
}

/// A peer that stops a stream says why on its own: the next read tells.
fn said(written: Result<(), WriteError>) -> Result<(), LinkDown> {
    match written {
        Ok(()) | Err(WriteError::Stopped(_)) => Ok(()),
        Err(error) => Err(write_failed(&error)),
    }
}

async fn open(connection: &Connection, class: Class) -> Result<SendStream, LinkDown> {
    let stream = connection.open_uni().await.map_err(|error| connection_failed(&error))?;
    // Fails only for a stream that has ended, which the first write reports.
    let _ = stream.set_priority(priority(class));
    Ok(stream)
}

/// Runs the link until it ends, and returns why it did.
pub(super) async fn run(
    shared: &Arc<Shared>,
    slot: &Arc<PeerSlot>,
    connection: Connection,
    greeted: Greeted,
    candidate: &CancellationToken,
) -> LinkDown {
    let path = Box::new(QuicPath { connection: connection.clone() });
    let link = Arc::new(Link::new(&shared.config.limits, path));
    let side = LinkSide { slot: Arc::clone(slot), link: Arc::clone(&link) };
    let Greeted { hello, control_out, control_in } = greeted;
    let (own, peer) = (shared.peers.own(), slot.key());
    let carry = async {
        tracing::info!(%own, %peer, address = %connection.remote_address(), "link up");
        carry(shared, side, &connection, control_out, control_in).await;
    };
    let reason = slot.live(&shared.events, &link, candidate, hello, carry).await;
    tracing::info!(%own, %peer, %reason, "link down");
    let told = match &reason {
        LinkDown::RefusedByUs(_) => false,
        LinkDown::Closed => !slot.is_stopped(),
        LinkDown::RefusedByPeer(_) | LinkDown::Lost(_) => true,
    };
    if !told {
        // The peer closes when it has read the reset. Were both to wait, each end would cost this.
        let _ = tokio::time::timeout(LINGER, connection.closed()).await;
    }
    close(&connection, &reason);
    reason
}

/// Moves frames until the link has ended and all four tasks are done.
async fn carry(
    shared: &Arc<Shared>,
    side: LinkSide,
    connection: &Connection,
    control_out: SendStream,
    control_in: FrameReader,
) {
    let mut tasks = JoinSet::new();
    tasks.spawn(read(Arc::clone(shared), side.clone(), Class::Control, async { Ok(control_in) }));
    tasks.spawn(write(side.clone(), Class::Control, async { Ok(control_out) }));
    let incoming = connection.clone();
    tasks.spawn(read(Arc::clone(shared), side.clone(), Class::Bulk, async move {
        let stream = incoming.accept_uni().await;
        stream.map(FrameReader::new).map_err(|error| connection_failed(&error))
    }));
    let outgoing = connection.clone();
    let bulk_out = async move { open(&outgoing, Class::Bulk).await };
    tasks.spawn(write(side.clone(), Class::Bulk, bulk_out));
    // Readers that wait for budget do not look at the connection.
    let closed = async { connection_failed(&connection.closed().await) };
    let watch = until_ended(Arc::clone(&side.link), closed);
    let join = async {
        while let Some(done) = tasks.join_next().await {
            if let Err(error) = done {
                tracing::error!(%error, peer = %side.slot.key(), "a task of a link failed");
                side.link.end(LinkDown::Lost("a task of the link failed".into()));
            }
        }
    };
    tokio::join!(watch, join);
}

async fn read(
    shared: Arc<Shared>,
    side: LinkSide,
    class: Class,
    stream: impl Future<Output = Result<FrameReader, LinkDown>>,
) {
    let read = async {
        match stream.await {
            Ok(reader) => read_frames(&shared, &side, class, reader).await,
            Err(reason) => reason,
        }
    };
    until_ended(Arc::clone(&side.link), read).await;
}

async fn write(
    side: LinkSide,
    class: Class,
    stream: impl Future<Output = Result<SendStream, LinkDown>>,
) {
    let stream = tokio::select! {
        biased;
        stream = stream => stream,
        // Nothing to reset yet: the control stream tells.
        _ = side.link.ended() => return,
    };
    match stream {
        Ok(mut stream) => {
            until_ended(Arc::clone(&side.link), write_frames(&side, class, &mut stream)).await;
            reset(&mut stream, &side.link.ended().await);
        }
        Err(reason) => side.link.end(reason),
    }
}

/// Ends the link with what `work` returns, or drops `work` when the link has ended otherwise.
async fn until_ended(link: Arc<Link>, work: impl Future<Output = LinkDown>) {
    tokio::select! {
        biased;
        _ = link.ended() => {}
        reason = work => link.end(reason),
    }
}

/// Ends a stream and says why. Does nothing to a stream that has ended.
fn reset(stream: &mut SendStream, reason: &LinkDown) {
    let _ = stream.reset(VarInt::from_u32(reason.code()));
}

/// Closes a connection and tells the other end why.
pub(super) fn close(connection: &Connection, reason: &LinkDown) {
    let text = match reason {
        LinkDown::RefusedByUs(refusal) => refusal.to_string(),
        LinkDown::RefusedByPeer(_) | LinkDown::Lost(_) | LinkDown::Closed => String::new(),
    };
    connection.close(VarInt::from_u32(reason.code()), text.as_bytes());
}

struct QuicPath {
    connection: Connection,
}

impl Path for QuicPath {
    /// The writers reset their streams with the reason.
    fn ended(&self, _: &LinkDown) {}

    fn report(&self) -> PathReport {
        let stats = self.connection.stats();
        PathReport {
            rtt: Some(stats.path.rtt),
            current_mtu: stats.path.current_mtu,
            black_holes: stats.path.black_holes_detected,
            datagrams_received: stats.udp_rx.datagrams,
        }
    }
}
