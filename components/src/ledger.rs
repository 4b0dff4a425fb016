//! The ledger of a transaction: what it has locked, read and written, and what it may still spend.
//!
//! It is shared by the program of the transaction, which asks, and the world, which answers between two polls of
//! the program; they never run at the same time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::chain::{Block, Mutation};
use crate::cluster::ChainId;
use crate::error::{Error, Result};
use crate::state::State;
use crate::transaction_id::TxnId;

/// How much one transaction may hold in its contexts, in bytes.
pub const TRANSACTION_BYTES_MAX: u64 = 128 << 20;

/// How a transaction wants to use a chain.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum LockMode {
    /// See its subject.
    Read,
    /// See and change its subject.
    Write,
}

/// What a program asks the world for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Want {
    /// A lock on a chain.
    Lock(ChainId, LockMode),
    /// The blocks of a chain on which it has a lock.
    History(ChainId),
}

/// What a transaction sees of a chain.
#[derive(Clone, Debug)]
pub struct View {
    /// The lock that was granted.
    pub mode: LockMode,
    /// The subject, with the transaction's own changes.
    pub subject: State,
    /// The transaction's own changes, in order.
    pub mutations: Vec<Mutation>,
    /// The blocks as they were committed, once they were asked for and came.
    pub history: Option<Vec<std::sync::Arc<Block>>>,
}

#[derive(Debug, Default)]
struct Content {
    views: BTreeMap<ChainId, View>,
    asked: Vec<Want>,
    wants: Vec<Want>,
    fuel: u64,
    out_of_fuel: bool,
    bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    id: TxnId,
    content: Mutex<Content>,
}

impl Ledger {
    /// An empty ledger without fuel.
    pub fn new(id: TxnId) -> Self {
        Self { id, content: Mutex::default() }
    }

    /// The transaction.
    pub fn id(&self) -> TxnId {
        self.id
    }

    // A program that panics is never polled again, so its ledger is only read for what it had locked.
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // For the program.

    /// Spend fuel; false if there was none left, then the program must yield.
    pub fn spend(&self, fuel: u64) -> bool {
        let content = &mut *self.content();
        if content.fuel == 0 {
            content.out_of_fuel = true;
            return false;
        }
        content.fuel = content.fuel.saturating_sub(fuel);
        true
    }

    /// Take fuel for work that is done already; if nothing is left, the next step yields.
    pub fn charge(&self, fuel: u64) {
        let content = &mut *self.content();
        content.fuel = content.fuel.saturating_sub(fuel);
    }

    /// Account for a state that a context keeps.
    ///
    /// # Errors
    /// 400 if the contexts of the transaction would hold more than [`TRANSACTION_BYTES_MAX`].
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        let content = &mut *self.content();
        if content.bytes + bytes > TRANSACTION_BYTES_MAX {
            return Err(Error::bad_request(format_args!(
                "the states of this transaction take more than {} MiB",
                TRANSACTION_BYTES_MAX >> 20
            )));
        }
        content.bytes += bytes;
        Ok(())
    }

    /// A context that kept states is gone.
    pub fn release(&self, bytes: u64) {
        let content = &mut *self.content();
        content.bytes = content.bytes.checked_sub(bytes).expect("no more is released than was reserved");
    }

    /// The subject of a chain if it is locked so, else ask for the lock.
    pub fn subject(&self, chain: ChainId, mode: LockMode) -> Option<State> {
        let content = &mut *self.content();
        match content.views.get(&chain) {
            Some(view) if view.mode >= mode => Some(view.subject.clone()),
            _ => {
                ask(content, Want::Lock(chain, mode));
                None
            }
        }
    }

    /// Change the subject of a chain that is locked for writing.
    ///
    /// # Errors
    /// As [`Mutation::apply`]; then nothing has changed.
    ///
    /// # Panics
    /// If the chain is not locked for writing.
    pub fn mutate(&self, chain: ChainId, mutation: Mutation) -> Result<()> {
        let content = &mut *self.content();
        let view = content.views.get_mut(&chain).expect("a view of a locked chain");
        assert_eq!(view.mode, LockMode::Write, "only a chain that is locked for writing changes");
        view.subject = mutation.apply(&view.subject)?;
        let bytes = mutation.bytes();
        view.mutations.push(mutation);
        if content.bytes + bytes > TRANSACTION_BYTES_MAX {
            return Err(Error::bad_request(format_args!(
                "this transaction writes more than {} MiB",
                TRANSACTION_BYTES_MAX >> 20
            )));
        }
        content.bytes += bytes;
        Ok(())
    }

    /// The committed blocks of a locked chain and the transaction's own mutations, else ask for them.
    pub fn history(&self, chain: ChainId) -> Option<(Vec<std::sync::Arc<Block>>, Vec<Mutation>)> {
        let content = &mut *self.content();
        let view = content.views.get(&chain).expect("a view of a locked chain");
        match &view.history {
            Some(blocks) => Some((blocks.clone(), view.mutations.clone())),
            None => {
                ask(content, Want::History(chain));
                None
            }
        }
    }

    // For the world.

    /// Give the program fuel for a tick.
    pub fn refuel(&self, fuel: u64) {
        let content = &mut *self.content();
        content.fuel = fuel;
        content.out_of_fuel = false;
    }

    /// Whether the program stopped because its fuel was spent.
    pub fn is_out_of_fuel(&self) -> bool {
        self.content().out_of_fuel
    }

    /// What the program has asked for since the last call, without repeats.
    pub fn take_wants(&self) -> Vec<Want> {
        std::mem::take(&mut self.content().wants)
    }

    /// Grant a lock: show the program the committed subject. A stronger lock on a chain that it sees already
    /// keeps what it sees.
    pub fn grant(&self, chain: ChainId, mode: LockMode, subject: State) {
        let content = &mut *self.content();
        content
            .views
            .entry(chain)
            .and_modify(|view| view.mode = view.mode.max(mode))
            .or_insert_with(|| View { mode, subject, mutations: Vec::new(), history: None });
    }

    /// Show the program the committed blocks of a chain.
    ///
    /// # Panics
    /// If the chain is not locked.
    pub fn show_history(&self, chain: ChainId, blocks: Vec<std::sync::Arc<Block>>) {
        self.content().views.get_mut(&chain).expect("a view of a locked chain").history = Some(blocks);
    }

    /// The chains that the program has changed, with its changes in order and the subject after them.
    pub fn take_changes(&self) -> Vec<(ChainId, State, Vec<Mutation>)> {
        let content = &mut *self.content();
        std::mem::take(&mut content.views)
            .into_iter()
            .filter(|(_, view)| !view.mutations.is_empty())
            .map(|(chain, view)| (chain, view.subject, view.mutations))
            .collect()
    }

    /// The chains that the program has changed or wanted to change.
    pub fn write_set(&self) -> Vec<ChainId> {
        let content = self.content();
        let written = content.views.iter().filter(|(_, view)| !view.mutations.is_empty()).map(|(id, _)| *id);
        let wanted = content.asked.iter().filter_map(|want| match want {
            Want::Lock(chain, LockMode::Write) => Some(*chain),
            _ => None,
        });
        let mut chains: Vec<ChainId> = written.chain(wanted).collect();
        chains.sort();
        chains.dedup();
        chains
    }

    /// The bytes that the contexts of the transaction hold.
    pub fn bytes(&self) -> u64 {
        self.content().bytes
    }
}

/// Bytes that something holds for as long as it lives, on the account of its transaction.
#[derive(Debug)]
pub struct Reservation {
    ledger: Arc<Ledger>,
    bytes: u64,
}

impl Reservation {
    /// Nothing yet.
    pub fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger, bytes: 0 }
    }

    /// How much is held, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Hold so many bytes more.
    ///
    /// # Errors
    /// As [`Ledger::reserve`].
    pub fn grow(&mut self, bytes: u64) -> Result<()> {
        self.ledger.reserve(bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Hold so many bytes less.
    pub fn shrink(&mut self, bytes: u64) {
        self.bytes = self.bytes.checked_sub(bytes).expect("no more is given back than was held");
        self.ledger.release(bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ledger.release(self.bytes);
    }
}

fn ask(content: &mut Content, want: Want) {
    if !content.asked.contains(&want) {
        content.asked.push(want);
        content.wants.push(want);
    }
}
