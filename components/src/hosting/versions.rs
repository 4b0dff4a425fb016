//! Hosted chains as entities of the world: the versions of their subjects, who waits for them, their blocks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bevy_ecs::prelude::{Component, Entity};

use super::cluster::ChainSpec;
use crate::language::chain::{BlockHash, BlockHasher};
use crate::language::state::State;
use crate::rows::delta::Visibility;
use crate::rows::key::Key;
use crate::rows::page::{PageCell, Tree};
use crate::rows::schema::{ColumnType, Schema};
use crate::value::ids::{ChainId, TreeId};
use crate::value::transaction_id::TxnId;

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

impl Version {
    fn bytes(&self) -> u64 {
        VERSION_BYTES + self.subject.bytes()
    }
}

/// A hosted chain.
#[derive(Component, Debug)]
pub struct HostedChain {
    /// Its number.
    pub id: ChainId,
    /// What the configuration declares.
    pub spec: ChainSpec,
}

/// How much the versions of one subject that only older transactions can read may take, in bytes.
pub const OLD_VERSIONS_BYTES_MAX: u64 = 256 << 20;

/// What a version takes beside its subject, in bytes.
const VERSION_BYTES: u64 = 128;

/// The committed versions of a subject that a running transaction may still read, ids and commits ascending.
#[derive(Component, Debug)]
pub struct Versions {
    versions: VecDeque<Version>,
    /// The size of all but the newest.
    old_bytes: u64,
}

impl Versions {
    /// The version that was loaded at the start.
    pub fn new(first: Version) -> Self {
        Self { versions: [first].into(), old_bytes: 0 }
    }

    /// The newest version.
    pub fn newest(&self) -> &Version {
        self.versions.back().expect("there is always a version")
    }

    /// The newest version before `id` that is among the first `commit` commits; none if it was dropped.
    pub fn before(&self, id: TxnId, commit: u64) -> Option<&Version> {
        let older = self.versions.partition_point(|version| version.id < id && version.commit <= commit);
        self.versions.get(older.checked_sub(1)?)
    }

    /// Add a version.
    ///
    /// # Panics
    /// If it is not newer than every other: then two transactions have written out of order.
    pub fn push(&mut self, version: Version) {
        assert!(version.id > self.newest().id && version.commit > self.newest().commit, "versions ascend");
        self.old_bytes += self.newest().bytes();
        self.versions.push_back(version);
    }

    /// Drop the versions that no transaction from `id` on, or with a snapshot from `commit` on, can read, and the
    /// oldest if they take too much: those who would read them begin again.
    pub fn drop_before(&mut self, id: TxnId, commit: u64) {
        while let Some(next) = self.versions.get(1)
            && ((next.id < id && next.commit <= commit) || self.old_bytes > OLD_VERSIONS_BYTES_MAX)
        {
            let oldest = self.versions.pop_front().expect("two versions");
            self.old_bytes -= oldest.bytes();
        }
    }

    /// How many versions are kept.
    pub fn count(&self) -> usize {
        self.versions.len()
    }

    /// The versions, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Version> {
        self.versions.iter()
    }
}

/// The collections that are the subject of a chain.
#[derive(Component, Debug)]
pub struct HostedCollections {
    /// Each collection; a chain around one has one.
    pub slots: Vec<HostedRows>,
    /// The newest transaction that changed one of them.
    pub newest: TxnId,
    /// The last commits, with their transactions, from the newest on that every snapshot has.
    recent: VecDeque<(u64, TxnId)>,
}

impl HostedCollections {
    /// Collections that this transaction changed last, before all snapshots.
    pub fn new(slots: Vec<HostedRows>, newest: TxnId) -> Self {
        Self { slots, newest, recent: [(0, newest)].into() }
    }

    /// Note a commit; no snapshot ends before `oldest_snapshot`.
    pub fn note_commit(&mut self, commit: u64, id: TxnId, oldest_snapshot: u64) {
        self.newest = self.newest.max(id);
        self.recent.push_back((commit, id));
        while self.recent.get(1).is_some_and(|(next, _)| *next <= oldest_snapshot) {
            self.recent.pop_front();
        }
    }

    /// The last transaction among the first `commit` commits.
    pub fn last_until(&self, commit: u64) -> TxnId {
        let until = self.recent.partition_point(|(other, _)| *other <= commit);
        self.recent[until.checked_sub(1).expect("a snapshot in use")].1
    }
}

/// The rows of a hosted collection.
#[derive(Debug)]
pub struct HostedRows {
    /// Its schema.
    pub schema: Arc<Schema>,
    /// Its trees: the primary one, then those of the indices.
    pub trees: Arc<Vec<Tree>>,
}

/// Where a page is: in which tree, and from which key on.
pub type PagePlace = (TreeId, Key);

/// What of a chain around collections recovery has to repeat, and what has to be stored so that it need not.
#[derive(Component, Debug, Default)]
pub struct EffectLog {
    /// The size of each stored value of effects that is not in every stored page, in bytes, by the last commit in it.
    pub entries: BTreeMap<u64, u64>,
    /// The size of all of them.
    pub bytes: u64,
    /// The effects of this tick, encoded.
    pub pending: Vec<u8>,
    /// The last commit among them.
    pub pending_last: Option<u64>,
    /// Older values of effects that only pages need which cannot be read, so that they cannot be stored anew.
    pub retained: BTreeMap<u64, u64>,
    /// Values of effects that every stored page holds, by the last commit: they are to be deleted.
    pub obsolete: VecDeque<u64>,
    /// The pages that hold what their stored form lacks.
    pub dirty: BTreeSet<PagePlace>,
    /// The checkpoint that is being made.
    pub checkpoint: Option<PageCheckpoint>,
}

/// A checkpoint of the pages of a chain: once all of them are stored, the effects up to a commit are not needed.
#[derive(Debug)]
pub struct PageCheckpoint {
    /// The last commit that it covers.
    pub through: u64,
    /// The pages that are still to be stored.
    pub pages: BTreeSet<PagePlace>,
    /// The page that was looked at last.
    pub after: Option<PagePlace>,
    /// How many pages were looked at since the last one that could be stored.
    pub looked_at: usize,
    /// When none of all that are left could be stored: before what somebody looked then, and how many pages had come.
    pub held_back: Option<(Visibility, u64)>,
}

impl EffectLog {
    /// Everything up to a commit is stored in all pages, but for some, which hold `lacking` commits that their stored form
    /// lacks, ascending.
    pub fn checkpointed(&mut self, through: u64, lacking: &BTreeSet<u64>) {
        let newer = self.entries.split_off(&(through + 1));
        let done = std::mem::replace(&mut self.entries, newer);
        self.bytes -= done.values().sum::<u64>();
        let mut done = if self.retained.is_empty() {
            done
        } else {
            let mut all = std::mem::take(&mut self.retained);
            all.extend(done);
            all
        };
        for commit in lacking {
            // A value has the effects of all commits of a tick, and the name of the last one.
            if let Some((last, bytes)) = done.range(commit..).next().map(|(last, bytes)| (*last, *bytes)) {
                self.retained.insert(last, bytes);
            }
        }
        done.retain(|last, _| !self.retained.contains_key(last));
        self.obsolete.extend(done.into_keys());
    }
}

/// The base of a page as an entity.
#[derive(Component, Debug)]
pub struct PageHeader {
    /// The base, shared with all versions of the page.
    pub cell: Arc<PageCell>,
    /// The tree that it belongs to.
    pub tree: TreeId,
    /// The types of its columns.
    pub types: Arc<[ColumnType]>,
    /// The batch that stores it.
    pub stored: u64,
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

/// A block of a chain. Its content is in storage alone: who reads a history reads it there.
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
    /// The newest transaction in it that came since the host began; before all others if none did.
    pub newest: TxnId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_are_kept_as_long_as_a_page_lacks_them() {
        let mut log = EffectLog { bytes: 50, ..Default::default() };
        log.entries = [2, 4, 6, 8, 10].map(|last| (last, 10)).into();
        log.checkpointed(8, &[3, 4, 7].into());
        assert_eq!((log.bytes, log.entries.keys().collect::<Vec<_>>()), (10, vec![&10]));
        assert_eq!(
            log.retained.keys().collect::<Vec<_>>(),
            [&4, &8],
            "the values that have the commits 3, 4 and 7"
        );
        assert_eq!(log.obsolete, [2, 6]);
        log.checkpointed(10, &[7].into());
        assert_eq!(log.retained.keys().collect::<Vec<_>>(), [&8]);
        assert_eq!(log.obsolete, [2, 6, 4, 10]);
        log.checkpointed(10, &BTreeSet::new());
        assert!(log.retained.is_empty() && log.entries.is_empty());
        assert_eq!(log.obsolete, [2, 6, 4, 10, 8]);
    }

    #[test]
    fn old_versions_are_bounded() {
        let version = |i: u64| {
            let subject = State::string("x".repeat(1 << 20));
            Version { id: TxnId::new(i, 0), commit: i, batch: i, subject }
        };
        let mut versions = Versions::new(version(1));
        for i in 2..=1_000 {
            versions.push(version(i));
            versions.drop_before(TxnId::ZERO, 0);
        }
        assert!((200..=256).contains(&versions.count()), "{}", versions.count());
        assert_eq!(versions.newest().commit, 1_000);
        versions.drop_before(TxnId::MAX, u64::MAX);
        assert_eq!((versions.count(), versions.old_bytes), (1, 0));
    }
}
