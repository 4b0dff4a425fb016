//! Retired pages: bases that no newest version of a tree has any more, which older readers may still look at; and pins, by
//! which answers keep the pages that are still to be read for them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use components::TxnId;
use components::rows::delta::Visibility;
use components::transaction::RequestId;
use components::value::ids::{PageId, TreeId};

/// At how many trees one call looks at most to find a page that nobody can read any more.
const TREES_PER_LOOK_MAX: usize = 64;

/// A base that only older readers may still look at.
#[derive(Clone, Copy, Debug)]
struct RetiredPage {
    page: PageId,
    /// What it takes in storage, about, and what all that were retired in this tree up to it took, in bytes.
    bytes: u64,
    bytes_until: u64,
    /// The last transaction that had begun when it was retired.
    last_id: TxnId,
    /// The number of the last commit when it was retired.
    commit: u64,
}

/// The retired pages of a tree in the order in which they were retired, and the pins on it, by the commit from which on
/// they keep them.
#[derive(Debug, Default)]
struct RetiredInTree {
    pages: VecDeque<RetiredPage>,
    bytes_until: u64,
    pins: BTreeSet<(u64, RequestId)>,
}

impl RetiredInTree {
    fn oldest_pin(&self) -> u64 {
        self.pins.first().map_or(u64::MAX, |(commit, _)| *commit)
    }

    /// How many of the first pages nobody reads but for pins.
    fn unread(&self, oldest: Visibility) -> usize {
        self.pages.partition_point(|page| page.last_id < oldest.before && page.commit < oldest.commit)
    }

    /// What is kept for pins alone, in bytes.
    fn pinned_bytes(&self, oldest: Visibility) -> u64 {
        let oldest_pin = self.oldest_pin();
        let (first, end) = (self.pages.partition_point(|page| page.commit < oldest_pin), self.unread(oldest));
        match (self.pages.get(first), end.checked_sub(1).map(|last| &self.pages[last])) {
            (Some(first), Some(last)) => (last.bytes_until + first.bytes).saturating_sub(first.bytes_until),
            _ => 0,
        }
    }
}

/// What an answer keeps.
#[derive(Debug)]
struct Pin {
    commit: u64,
    trees: Vec<TreeId>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct RetiredPages {
    trees: BTreeMap<TreeId, RetiredInTree>,
    pins: BTreeMap<RequestId, Pin>,
    /// Pages that no tree of this world ever had: what another one left behind, or what was stored in vain.
    left: VecDeque<PageId>,
    /// Answers of another world that are still to be read: they may read any page that there was when this one began.
    heirs: BTreeSet<RequestId>,
    /// The tree that was looked at last.
    after: Option<TreeId>,
    count: usize,
    bytes: u64,
}

impl RetiredPages {
    /// How many pages there are.
    pub fn len(&self) -> usize {
        self.count + self.left.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What they take in storage, about, in bytes; those that were left behind are not counted.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many answers keep pages.
    pub fn pins(&self) -> usize {
        self.pins.len() + self.heirs.len()
    }

    /// Begin with the pages that another world has left behind, and the answers of that world that may read them.
    pub fn inherit(
        &mut self,
        pages: impl IntoIterator<Item = PageId>,
        heirs: impl IntoIterator<Item = RequestId>,
    ) {
        self.left.extend(pages);
        self.heirs.extend(heirs);
    }

    /// A base of a tree is in no newest version any more; the last transaction and the last commit until now may have
    /// seen it.
    pub fn retire(&mut self, tree: TreeId, page: PageId, bytes: u64, last_id: TxnId, commit: u64) {
        let retired = self.trees.entry(tree).or_default();
        retired.bytes_until += bytes;
        let bytes_until = retired.bytes_until;
        retired.pages.push_back(RetiredPage { page, bytes, bytes_until, last_id, commit });
        self.count += 1;
        self.bytes += bytes;
    }

    /// Nobody but an answer of another world can read these pages.
    pub fn leave(&mut self, pages: impl IntoIterator<Item = PageId>) {
        self.left.extend(pages);
    }

    /// An answer is still to be read from what these trees were after a commit.
    pub fn pin(&mut self, request: RequestId, commit: u64, trees: Vec<TreeId>) {
        for tree in &trees {
            self.trees.entry(*tree).or_default().pins.insert((commit, request));
        }
        self.pins.insert(request, Pin { commit, trees });
    }

    /// An answer is not read any more. It may have been told so before.
    pub fn unpin(&mut self, request: RequestId) {
        self.heirs.remove(&request);
        let Some(Pin { commit, trees }) = self.pins.remove(&request) else { return };
        for tree in trees {
            let retired = self.trees.get_mut(&tree).expect("a tree with a pin");
            retired.pins.remove(&(commit, request));
            if retired.pins.is_empty() && retired.pages.is_empty() {
                self.trees.remove(&tree);
            }
        }
    }

    /// A page that nobody can read any more; before `oldest` of its tree nobody reads. None does not mean that there is
    /// none left: calls look at some trees after the others.
    pub fn pop(&mut self, oldest: impl Fn(TreeId) -> Visibility) -> Option<PageId> {
        if !self.heirs.is_empty() {
            return None;
        }
        if let Some(page) = self.left.pop_front() {
            return Some(page);
        }
        for _ in 0..TREES_PER_LOOK_MAX.min(self.trees.len() + 1) {
            let start = self.after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
            let next = self.trees.range_mut((start, std::ops::Bound::Unbounded)).next();
            let Some((tree, retired)) = next else {
                self.after = None;
                continue;
            };
            let (tree, oldest_pin) = (*tree, retired.oldest_pin());
            let oldest = oldest(tree);
            let is_free = |page: &mut RetiredPage| {
                page.last_id < oldest.before && page.commit < oldest.commit.min(oldest_pin)
            };
            match retired.pages.pop_front_if(is_free) {
                Some(RetiredPage { page, bytes, .. }) => {
                    self.count -= 1;
                    self.bytes -= bytes;
                    if retired.pages.is_empty() && retired.pins.is_empty() {
                        self.trees.remove(&tree);
                    }
                    return Some(page);
                }
                None => self.after = Some(tree),
            }
        }
        None
    }

    /// Break pins until what is kept for them alone takes no more than `bytes_max`: of the tree of which most is kept the
    /// oldest one first. Those answers cannot be read to their end any more.
    pub fn revoke(&mut self, oldest: impl Fn(TreeId) -> Visibility, bytes_max: u64) -> Vec<RequestId> {
        let mut revoked = Vec::new();
        if self.bytes <= bytes_max {
            return revoked;
        }
        // What was left by another world is not counted, so it goes when there is much besides.
        revoked.extend(std::mem::take(&mut self.heirs));
        let pinned = self.trees.iter().filter(|(_, retired)| !retired.pins.is_empty());
        let mut kept: BTreeSet<(u64, TreeId)> =
            pinned.map(|(tree, retired)| (retired.pinned_bytes(oldest(*tree)), *tree)).collect();
        let mut bytes: u64 = kept.iter().map(|(bytes, _)| bytes).sum();
        while bytes > bytes_max {
            let (_, tree) = *kept.last().expect("a tree of which something is kept");
            let (_, request) = *self.trees[&tree].pins.first().expect("a pin that keeps something");
            let trees = self.pins[&request].trees.clone();
            self.unpin(request);
            revoked.push(request);
            for tree in trees {
                // It may have had the last pin of a tree without retired pages.
                let left = self.trees.get(&tree).filter(|retired| !retired.pins.is_empty());
                let left = left.map(|retired| retired.pinned_bytes(oldest(tree)));
                let was =
                    kept.extract_if(.., |(_, other)| *other == tree).map(|(bytes, _)| bytes).sum::<u64>();
                bytes = bytes - was + left.unwrap_or(0);
                kept.extend(left.map(|left| (left, tree)));
            }
        }
        revoked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use components::value::ids::ChainId;

    fn tree(chain: u32) -> TreeId {
        TreeId { chain: ChainId(chain), slot: 0, tree: 0 }
    }

    fn id(i: u64) -> TxnId {
        TxnId::new(i, 0)
    }

    /// Nobody is active, no snapshot is read.
    fn nobody(_: TreeId) -> Visibility {
        Visibility::NEWEST
    }

    fn pop_all(pages: &mut RetiredPages, oldest: impl Fn(TreeId) -> Visibility) -> Vec<u64> {
        let mut popped: Vec<u64> = std::iter::from_fn(|| pages.pop(&oldest)).map(|page| page.0).collect();
        popped.sort_unstable();
        popped
    }

    #[test]
    fn a_pin_keeps_the_pages_of_its_trees_alone() {
        let mut pages = RetiredPages::default();
        pages.pin(RequestId(1), 5, vec![tree(1)]);
        for i in 0..4 {
            pages.retire(tree(1), PageId(10 + i), 100, id(i), 4 + i);
            pages.retire(tree(2), PageId(20 + i), 100, id(i), 4 + i);
        }
        assert_eq!(pop_all(&mut pages, nobody), [10, 20, 21, 22, 23], "and only from its commit on");
        assert_eq!((pages.len(), pages.bytes()), (3, 300));
        pages.unpin(RequestId(1));
        pages.unpin(RequestId(1));
        assert_eq!(pop_all(&mut pages, nobody), [11, 12, 13]);
        assert!(pages.is_empty() && pages.trees.is_empty());
    }

    #[test]
    fn readers_keep_what_they_may_see() {
        let mut pages = RetiredPages::default();
        for i in 1..=4 {
            pages.retire(tree(1), PageId(i), 100, id(i), i);
        }
        let oldest = |before, commit| move |_| Visibility { before, commit };
        assert_eq!(pop_all(&mut pages, oldest(id(2), u64::MAX)), [1]);
        assert_eq!(pop_all(&mut pages, oldest(TxnId::MAX, 3)), [2]);
        assert_eq!(pop_all(&mut pages, nobody), [3, 4]);
    }

    #[test]
    fn the_pin_that_keeps_too_much_is_broken_and_no_other() {
        let mut pages = RetiredPages::default();
        pages.pin(RequestId(1), 0, vec![tree(1)]);
        pages.pin(RequestId(2), 8, vec![tree(1)]);
        pages.pin(RequestId(3), 0, vec![tree(2), tree(3)]);
        for i in 0..10 {
            pages.retire(tree(1), PageId(100 + i), 100, id(i), i);
        }
        pages.retire(tree(2), PageId(200), 100, id(9), 9);
        assert_eq!(pages.revoke(nobody, 1_100), []);
        assert_eq!(pages.revoke(nobody, 1_099), [RequestId(1)]);
        assert_eq!(pop_all(&mut pages, nobody), (100..108).collect::<Vec<_>>());
        assert_eq!((pages.bytes(), pages.pins()), (300, 2));
        assert_eq!(pages.revoke(nobody, 0), [RequestId(2), RequestId(3)]);
        assert_eq!(pop_all(&mut pages, nobody), [108, 109, 200]);
        assert!(pages.trees.is_empty());
    }

    #[test]
    fn what_a_transaction_keeps_breaks_no_pin() {
        let mut pages = RetiredPages::default();
        pages.pin(RequestId(1), 0, vec![tree(1)]);
        for i in 0..10 {
            pages.retire(tree(1), PageId(i), 100, id(i), i);
        }
        let oldest = |_| Visibility { before: id(2), commit: u64::MAX };
        assert_eq!(pages.revoke(oldest, 200), [], "of ten pages, two are kept for the pin alone");
        assert_eq!(pages.revoke(oldest, 199), [RequestId(1)]);
    }

    #[test]
    fn what_another_world_has_left_is_kept_for_its_answers() {
        let mut pages = RetiredPages::default();
        pages.inherit([PageId(1), PageId(2)], [RequestId(7), RequestId(8)]);
        pages.retire(tree(1), PageId(3), 100, id(1), 1);
        pages.unpin(RequestId(7));
        assert!(pop_all(&mut pages, nobody).is_empty());
        pages.unpin(RequestId(8));
        assert_eq!(pop_all(&mut pages, nobody), [1, 2, 3]);
        assert!(pages.is_empty());
    }

    #[test]
    fn of_many_trees_none_is_forgotten() {
        let mut pages = RetiredPages::default();
        for chain in 0..1_000 {
            pages.retire(tree(chain), PageId(u64::from(chain)), 1, id(1), 1);
        }
        let only = |wanted: u32| {
            move |tree: TreeId| match tree.chain.0 == wanted {
                true => Visibility::NEWEST,
                false => Visibility { before: TxnId::ZERO, commit: 0 },
            }
        };
        for wanted in [999, 0, 500] {
            let found = (0..40).filter_map(|_| pages.pop(only(wanted))).next();
            assert_eq!(found, Some(PageId(u64::from(wanted))));
        }
    }
}
