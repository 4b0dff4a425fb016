//! The ids of what the host keeps: chains, their collections, trees and pages.

/// The number of a hosted chain; it stays the same for the life of the data directory.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ChainId(pub u32);

/// A collection in a chain of this host.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct HostedCollection {
    /// The chain.
    pub chain: ChainId,
    /// Which of the collections in its subject.
    pub slot: u16,
}

/// A tree of a hosted chain: of which of its collections, and which of that one's trees. A chain around a value has
/// the tree (0, 0).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct TreeId {
    /// The chain.
    pub chain: ChainId,
    /// The place of the collection in the subject of the chain.
    pub slot: u16,
    /// 0 for the primary tree, else that of an index.
    pub tree: u16,
}

impl TreeId {
    /// A tree of a collection.
    pub fn of(HostedCollection { chain, slot }: HostedCollection, tree: u16) -> Self {
        Self { chain, slot, tree }
    }

    /// The collection of the tree.
    pub fn collection(self) -> HostedCollection {
        HostedCollection { chain: self.chain, slot: self.slot }
    }

    /// The value of a chain.
    pub fn value(chain: ChainId) -> Self {
        Self { chain, slot: 0, tree: 0 }
    }
}

/// Names the stored base of a page; never used twice.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PageId(pub u64);
