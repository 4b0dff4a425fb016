//! Hosted chains as entities of the world: the versions of their subjects, who waits for them, their blocks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bevy_ecs::prelude::{Component, Entity};

use crate::chain::{Block, BlockHash, BlockHasher};
use crate::cluster::{ChainId, ChainSpec};
use crate::state::State;
use crate::transaction_id::TxnId;

/// A committed version of a subject.
#[derive(Clone, Debug)]
pub struct Version {
    /// The transaction that made it.
    pub id: TxnId,
    /// Its number in the order of commits.
    pub commit: u64,
    /// The batch that makes it durable.
    pub batch: u64,
    /// The subject.
    pub subject: State,
}

/// A hosted chain.
#[derive(Component, Debug)]
pub struct HostedChain {
    /// Its number.
    pub id: ChainId,
    /// What the configuration declares.
    pub spec: ChainSpec,
}

/// The committed versions of a subject that a running transaction may still read, ids and commits ascending.
#[derive(Component, Debug)]
pub struct Versions(VecDeque<Version>);

impl Versions {
    /// The version that was loaded at the start.
    pub fn new(first: Version) -> Self {
        Self([first].into())
    }

    /// The newest version.
    pub fn newest(&self) -> &Version {
        self.0.back().expect("there is always a version")
    }

    /// The newest version before `id` that is among the first `commit` commits; none if it was dropped.
    pub fn before(&self, id: TxnId, commit: u64) -> Option<&Version> {
        self.0.iter().rev().find(|version| version.id < id && version.commit <= commit)
    }

    /// Add a version.
    ///
    /// # Panics
    /// If it is not newer than every other: then two transactions have written out of order.
    pub fn push(&mut self, version: Version) {
        assert!(version.id > self.newest().id && version.commit > self.newest().commit, "versions ascend");
        self.0.push_back(version);
    }

    /// Drop the versions that no transaction from `id` on, or with a snapshot from `commit` on, can read.
    pub fn drop_before(&mut self, id: TxnId, commit: u64) {
        while self.0.get(1).is_some_and(|next| next.id < id && next.commit <= commit) {
            self.0.pop_front();
        }
    }

    /// How many versions are kept.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The versions, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Version> {
        self.0.iter()
    }
}

/// The locks on a chain in the order of their transactions, and the last one that has read it.
#[derive(Component, Debug, Default)]
pub struct LockQueue {
    /// The lock entity of each transaction.
    pub locks: BTreeMap<TxnId, Entity>,
    /// The newest transaction that has read the subject.
    pub last_read: TxnId,
}

/// What of a chain is on disk beside its blocks: the subject as a whole, and the mutations since.
#[derive(Component, Debug, Default)]
pub struct Stored {
    /// The transactions whose mutations are kept beside the subject.
    pub deltas: Vec<TxnId>,
    /// The size of those mutations, in bytes.
    pub delta_bytes: u64,
}

/// The blocks of a chain that keeps them, in order; the last one is open.
#[derive(Component, Debug)]
pub struct History {
    /// The block entities.
    pub blocks: Vec<Entity>,
    /// The running hash of the last block.
    pub open: BlockHasher,
}

/// A block of a chain.
#[derive(Component, Debug)]
pub struct BlockHeader {
    /// Its chain.
    pub chain: ChainId,
    /// Its place in the chain, from 0.
    pub ordinal: u32,
    /// The hash of the block before it; none for the first one.
    pub previous: Option<BlockHash>,
    /// How many transactions are in it.
    pub transactions: usize,
    /// Its size, in bytes of TBON.
    pub bytes: u64,
    /// The batch that makes all of it durable.
    pub batch: u64,
    /// How often its content was used since it was last read from disk.
    pub uses: u64,
    /// When its content was last used, as the number of a tick.
    pub last_used: u64,
}

/// The content of a block, if it is in memory.
#[derive(Component, Debug)]
pub struct BlockContent(pub Option<Arc<Block>>);
