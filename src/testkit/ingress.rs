//! What ingress does with a message before the core sees it, in the same order and with the same
//! checks as the engine: decode, hash, verify.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use super::epochs::{Plan, Planned};
use super::keys::Keys;
use crate::crypto::{self, Signer};
use crate::sequencer::port::{Input, NoContent};
use crate::types::{
    AbsenceAnswer, AbsenceStatement, Author, Batch, ChainId, Digest, Epoch, FetchedContent,
    Genesis, InvalidEvidence, Membership, Message, Payload, ProofOfStore, SignedAbsence,
    SignedBatchInfo, UnavailabilityProof, Vote,
};

/// What a message of a peer amounts to.
pub(super) enum Judged {
    /// Inputs for the core, in order.
    Inputs(Vec<Input>),
    /// A question that the store answers.
    Serve(Vec<(Digest, Option<u16>)>),
    /// Counted against the peer.
    Invalid,
    /// The same, and the core is told that it was an answer.
    Wrong(Input),
}

/// What every check needs.
pub(super) struct Ingress<'a> {
    pub genesis: &'a Genesis,
    pub plan: &'a Plan,
    pub membership: &'a Membership,
    pub keys: &'a Keys,
}

impl Ingress<'_> {
    pub fn judge(&self, from: Author, message: Message) -> Judged {
        match message {
            Message::Batch(batch) => {
                if batch.info.author != from || !self.is_valid(&batch) {
                    return Judged::Invalid;
                }
                let digest = batch.info.digest(&self.chain());
                Judged::Inputs(vec![Input::Batch { from, digest, batch }])
            }
            Message::Votes { announcement, votes } => {
                let mut inputs = vec![Input::Announce { from, announcement }];
                for Vote { digest, signature } in votes {
                    let vote = SignedBatchInfo { digest, signer: from, signature };
                    let verifies =
                        |epoch| self.keys.verify_batch(&self.plan.of(epoch).scope, &vote);
                    // What came before an invalid vote counts, as in the engine.
                    if verifies(self.membership.epoch) {
                        inputs.push(Input::Vote(vote));
                    } else if !self.membership.former.iter().any(|f| verifies(f.epoch)) {
                        inputs.push(Input::BadVote { from });
                        break;
                    }
                }
                Judged::Inputs(inputs)
            }
            Message::Proofs(proofs) => {
                let mut inputs = Vec::new();
                let epoch = self.membership.epoch;
                for proof in proofs {
                    match proof.info.epoch.cmp(&epoch) {
                        Ordering::Equal => {}
                        Ordering::Less => continue,
                        Ordering::Greater => {
                            inputs.push(Input::Ahead { from });
                            break;
                        }
                    }
                    if !self.is_proof(&proof) {
                        return Judged::Invalid;
                    }
                    let digest = proof.info.digest(&self.chain());
                    inputs.push(Input::Proof { digest, proof: Arc::new(proof) });
                }
                Judged::Inputs(inputs)
            }
            Message::Payload(payload) if payload.header.epoch > self.membership.epoch => {
                Judged::Inputs(vec![Input::Ahead { from }])
            }
            Message::Payload(payload) => self.payload(from, *payload),
            Message::Serving(epoch) => Judged::Inputs(vec![Input::Serving { from, epoch }]),
            Message::Announce(announcement) => {
                Judged::Inputs(vec![Input::Announce { from, announcement }])
            }
            Message::FetchRequest(digests) => {
                Judged::Serve(digests.into_iter().map(|digest| (digest, None)).collect())
            }
            Message::ChunkRequest(chunks) => {
                let asked = chunks.into_iter().map(|chunk| (chunk.digest, Some(chunk.index)));
                Judged::Serve(asked.collect())
            }
            Message::AbsenceRequest { index, digest } => {
                Judged::Inputs(vec![Input::AbsenceRequest { from, index, digest }])
            }
            Message::Absence { index, digest, answer } => {
                if let AbsenceAnswer::Signed { epoch, reason, signature } = answer {
                    // Of an epoch that is not known here: late, or from a validator ahead.
                    let Some(planned) = self.known(epoch) else { return Judged::Inputs(vec![]) };
                    let statement = AbsenceStatement { epoch, index, digest, reason };
                    let signed = SignedAbsence { statement, signer: from, signature };
                    if !self.keys.verify_absence(&planned.scope, &signed) {
                        return Judged::Invalid;
                    }
                }
                Judged::Inputs(vec![Input::Absence { from, index, digest, answer }])
            }
            Message::FetchReply { digest, content } => self.reply(from, digest, content),
        }
    }

    /// The epoch that is served, or one before it that still matters.
    fn known(&self, epoch: Epoch) -> Option<&Planned> {
        let former = self.membership.former.iter().any(|former| former.epoch == epoch);
        (former || epoch == self.membership.epoch).then(|| self.plan.of(epoch))
    }

    fn chain(&self) -> ChainId {
        self.plan.of(Epoch(0)).scope.chain
    }

    fn is_proof(&self, proof: &ProofOfStore) -> bool {
        let Planned { scope, committee } = self.plan.of(self.membership.epoch);
        crypto::verify_proof(self.keys, scope, committee, proof).is_ok()
    }

    fn is_valid(&self, batch: &Batch) -> bool {
        batch.body.verify(&batch.info, &self.genesis.parameters).is_ok()
    }

    fn payload(&self, from: Author, payload: Payload) -> Judged {
        if payload.content.root() != payload.header.content_root {
            return Judged::Invalid;
        }
        let (chain, epoch) = (&self.chain(), self.membership.epoch);
        let Planned { scope, committee } = self.plan.of(epoch);
        let proof = |proof: &ProofOfStore| crypto::verify_proof(self.keys, scope, committee, proof);
        let evidence = |evidence: &UnavailabilityProof| {
            let Some(planned) = self.known(evidence.epoch) else {
                return Err(InvalidEvidence::Epoch(evidence.epoch));
            };
            let Planned { scope, committee } = planned;
            crypto::verify_unavailability(self.keys, scope, committee, evidence)
        };
        let verdict = payload.verify(chain, &self.genesis.parameters, epoch, proof, evidence);
        let digest = payload.digest(chain);
        let batches = payload.content.batches().map(|info| info.digest(chain)).collect();
        let payload = Arc::new(payload);
        Judged::Inputs(vec![Input::Payload { from, digest, payload, batches, verdict }])
    }

    fn reply(&self, from: Author, digest: Digest, content: FetchedContent) -> Judged {
        let no = |answer| Judged::Inputs(vec![Input::NoContent { from, digest, answer }]);
        let wrong = Judged::Wrong(Input::NoContent { from, digest, answer: NoContent::Wrong });
        match content {
            FetchedContent::Absent(reason) => no(NoContent::Absent(reason)),
            FetchedContent::Busy(millis) => {
                no(NoContent::Busy(Duration::from_millis(millis.into())))
            }
            FetchedContent::Chunk(chunk) => {
                if chunk.info.digest(&self.chain()) != digest || chunk.verify().is_err() {
                    return wrong;
                }
                Judged::Inputs(vec![Input::FetchedChunk { from, digest, chunk }])
            }
            FetchedContent::Batch(batch) => {
                if batch.info.digest(&self.chain()) != digest || !self.is_valid(&batch) {
                    return wrong;
                }
                Judged::Inputs(vec![Input::FetchedBatch { from, digest, batch }])
            }
            FetchedContent::Payload(payload) => {
                if payload.digest(&self.chain()) != digest {
                    return wrong;
                }
                match self.payload(from, *payload) {
                    Judged::Invalid => wrong,
                    judged => judged,
                }
            }
        }
    }
}
