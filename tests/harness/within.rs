//! Faults planted within a deterministic machine: between the host, its storage and the disk. Nothing in the host knows of
//! them: what it is told, what it says and what is stored are changed on their way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use components::hosting::storage::{Keyspace, Write};
use components::language::reference::Verb;
use components::transaction::RequestId;
use components::{Number, Path, Request, State, Value};
use world::{Input, Inputs, Outputs};

use crate::deterministic::Deterministic;
use crate::machine::Between;
use crate::model::SERVICE;
use crate::steps::HOLD;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// Writes are acknowledged before the storage has them.
    AcknowledgedBeforeSync,
    /// The disk only says that it has synced.
    SkippedSync,
    /// The last batch before a stop is told to be durable and was never written.
    BatchDropped,
    /// Of a batch, the last write is missing.
    WriteDropped,
    /// What a transaction did to rows is stored without its end.
    EffectTruncated,
    /// A request runs twice.
    RequestDoubled,
    /// A number is another one on its way in.
    NumberChanged,
    /// A key is another one on its way in.
    KeyChanged,
    /// What a read marked is forgotten: an older write passes for a newer one.
    MarkForgotten,
    /// The clock of the next start is behind, and so are its ids: what was read before is not known.
    IdsMovedBack,
    /// A read shows what another one has shown before.
    StaleVersion,
    /// A lock is held for ever by somebody who has gone.
    LockNotReleased,
    /// The storage is never known to have anything.
    DurableForgotten,
    /// The handle of a page of an index is not stored.
    IndexPageLost,
}

impl Fault {
    pub const ALL: [Fault; 14] = [
        Fault::AcknowledgedBeforeSync,
        Fault::SkippedSync,
        Fault::BatchDropped,
        Fault::WriteDropped,
        Fault::EffectTruncated,
        Fault::RequestDoubled,
        Fault::NumberChanged,
        Fault::KeyChanged,
        Fault::MarkForgotten,
        Fault::IdsMovedBack,
        Fault::StaleVersion,
        Fault::LockNotReleased,
        Fault::DurableForgotten,
        Fault::IndexPageLost,
    ];

    /// A machine with this fault, which counts in `happened` how often it happens.
    pub fn plant(self, mut machine: Deterministic, happened: &Arc<AtomicU64>) -> Deterministic {
        match self {
            Fault::SkippedSync => {
                machine.disk().lie_about_syncs();
                machine.counting_starts(happened)
            }
            Fault::IdsMovedBack => {
                machine.clock_back_ns = 5_000_000_000;
                machine.counting_starts(happened)
            }
            _ => {
                let happened = happened.clone();
                machine.with(move || {
                    Box::new(Planted {
                        fault: self,
                        events: 0,
                        shown: None,
                        early: None,
                        said: 0,
                        happened: happened.clone(),
                    })
                })
            }
        }
    }
}

/// How often what could go wrong does.
const PERIOD: u64 = 7;

/// Where requests of nobody begin.
const NOBODY: u64 = 1 << 40;

struct Planted {
    fault: Fault,
    events: u64,
    /// What was shown last.
    shown: Option<State>,
    /// The last batch that is said to be durable already, and the last of which it was said.
    early: Option<u64>,
    said: u64,
    happened: Arc<AtomicU64>,
}

impl Planted {
    /// Whether it goes wrong this time.
    fn is_due(&mut self) -> bool {
        self.events += 1;
        self.events.is_multiple_of(PERIOD)
    }

    fn happens(&self) {
        self.happened.fetch_add(1, Relaxed);
    }
}

fn is_write(request: &Request) -> bool {
    request.verb == Verb::Put || request.path.to_string().contains("/put_")
}

/// The number after one, in the first place where there is one.
fn changed(state: &State) -> Option<State> {
    match state {
        State::Value(Value::Number(number)) => {
            Some(State::Value(Value::Number(Number::I64(number.as_i64()?.checked_add(1)?))))
        }
        State::Tuple(items) => {
            let mut items = items.to_vec();
            let (at, item) = items.iter().enumerate().find_map(|(at, item)| Some((at, changed(item)?)))?;
            items[at] = item;
            State::tuple(items).ok()
        }
        State::Map(items) => {
            let mut items: std::collections::BTreeMap<_, _> =
                items.iter().map(|(name, item)| (name.clone(), item.clone())).collect();
            let (name, item) = items.iter().find_map(|(name, item)| Some((name.clone(), changed(item)?)))?;
            items.insert(name, item);
            State::map(items).ok()
        }
        _ => None,
    }
}

impl Between for Planted {
    fn inputs(&mut self, inputs: &mut Inputs) {
        if self.fault == Fault::DurableForgotten {
            let before = inputs.events.len();
            inputs.events.retain(|event| !matches!(event, Input::Durable(_)));
            self.happened.fetch_add((before - inputs.events.len()) as u64, Relaxed);
        }
        if let Some(early) = self.early.take() {
            // What the storage says later is known already.
            inputs.events.retain(|event| !matches!(event, Input::Durable(batch) if *batch <= early));
            if self.said < early {
                self.said = early;
                inputs.events.push(Input::Durable(early));
            }
            self.early = Some(early);
        }
        let mut more = Vec::new();
        for event in &mut inputs.events {
            let Input::Request { request, .. } = event else { continue };
            let is_put = is_write(request);
            let is_due = is_put && self.is_due();
            match self.fault {
                Fault::RequestDoubled if is_due => {
                    let id = RequestId(NOBODY + self.events);
                    more.push(Input::Request { id, request: request.clone() });
                    self.happens();
                }
                Fault::NumberChanged if is_due => {
                    if let Some(body) = changed(&request.body) {
                        request.body = body;
                        self.happens();
                    }
                }
                Fault::KeyChanged if is_due => {
                    if let Value::Tuple(items) = &request.key
                        && let [Value::Number(number), rest @ ..] = &**items
                        && let Some(next) = number.as_i64().and_then(|number| number.checked_add(1))
                    {
                        let first = [Value::from(next)];
                        request.key = Value::Tuple(first.into_iter().chain(rest.iter().cloned()).collect());
                        self.happens();
                    }
                }
                Fault::MarkForgotten if is_put && request.txn_id.is_some() => {
                    request.txn_id = None;
                    self.happens();
                }
                Fault::LockNotReleased if is_due => {
                    let id = RequestId(NOBODY + self.events);
                    more.push(Input::Request { id, request: hold() });
                    self.happens();
                }
                _ => {}
            }
        }
        inputs.events.splice(0..0, more);
    }

    fn outputs(&mut self, outputs: &mut Outputs) {
        match self.fault {
            Fault::AcknowledgedBeforeSync => {
                if let Some(batch) = &outputs.batch {
                    self.early = Some(batch.sequence);
                    self.happens();
                }
            }
            Fault::StaleVersion => {
                for (_, reply) in &mut outputs.replies {
                    let Ok(state) = reply else { continue };
                    if state.is_streamed() || matches!(state, State::Value(Value::None)) {
                        continue;
                    }
                    let before = self.shown.replace(state.clone());
                    if let Some(before) = before.filter(|_| self.is_due()) {
                        *reply = Ok(before);
                        self.happens();
                    }
                }
            }
            _ => {}
        }
    }

    fn batches(&mut self, batches: &mut Vec<Vec<Write>>) {
        match self.fault {
            Fault::BatchDropped => {
                for batch in batches {
                    if self.is_due() {
                        batch.clear();
                        self.happens();
                    }
                }
            }
            Fault::WriteDropped => {
                for batch in batches {
                    if self.is_due() && batch.pop().is_some() {
                        self.happens();
                    }
                }
            }
            Fault::EffectTruncated => {
                for write in batches.iter_mut().flatten() {
                    // A chain, what of it, the commit.
                    let is_effect = write.keyspace == Keyspace::Values && write.key.get(4) == Some(&2);
                    if is_effect
                        && let Some(value) = &mut write.value
                        && !value.is_empty()
                    {
                        *value = Bytes::copy_from_slice(&value[..value.len() - 1]);
                        self.happens();
                    }
                }
            }
            Fault::IndexPageLost => {
                for batch in batches {
                    let before = batch.len();
                    // A chain, the collection in it, the tree, the page.
                    batch.retain(|write| {
                        let is_index = write.keyspace == Keyspace::Trees
                            && write.key.get(6..8).is_some_and(|tree| tree != [0, 0])
                            && !write.key.starts_with(&[0xff; 4]);
                        !is_index || write.value.is_none()
                    });
                    self.happened.fetch_add((before - batch.len()) as u64, Relaxed);
                }
            }
            _ => {}
        }
    }
}

/// A transaction that holds a value, and goes on holding it.
fn hold() -> Request {
    let path = Path::parse(&format!("{SERVICE}/{HOLD}")).expect("a path");
    let body = State::map(Default::default()).expect("an object");
    Request { verb: Verb::Post, path, key: Value::None, body, txn_id: None, rows_only: false }
}
