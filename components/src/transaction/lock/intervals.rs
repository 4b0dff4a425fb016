//! Values by ranges of keys, and what those that overlap a range say together.
//!
//! A balanced tree (AVL) in the order of the starts. Each node knows the last end and the summary of everything below it,
//! so a question passes by what does not overlap, or does not matter, without looking at it: it costs the logarithm of
//! how many ranges there are, for each range that begins before the one in question and reaches into it and matters.

use slab::Slab;

use super::LockRange;
use crate::rows::key::Key;

/// A value that lies in an [`Intervals`].
pub trait Summarize: Default {
    /// What is known of one or many values.
    type Summary: Copy + std::fmt::Debug;

    /// What is known of this value.
    fn summarize(&self) -> Self::Summary;

    /// What is known of both.
    fn join(this: Self::Summary, that: Self::Summary) -> Self::Summary;

    /// Whether it need not be kept.
    fn is_nothing(&self) -> bool;
}

/// What is asked of the values that overlap a range.
pub trait Question<V: Summarize> {
    /// Whether values of this summary may matter.
    fn matters(&self, summary: &V::Summary) -> bool;

    /// Take what many values say together, all of which overlap; false if they have to be looked at.
    fn take(&mut self, summary: &V::Summary) -> bool;

    /// Look at one value.
    fn look(&mut self, value: &V);
}

/// Where a range ends, in the order of ends.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum End<'a> {
    /// Before a key, or with it.
    At(&'a Key, bool),
    /// Never.
    Open,
}

impl End<'_> {
    fn is_after(self, start: &Key) -> bool {
        match self {
            End::At(key, is_with) => start < key || (is_with && start == key),
            End::Open => true,
        }
    }
}

impl LockRange {
    fn start(&self) -> &Key {
        match self {
            LockRange::Key(key) => key,
            LockRange::Range(range) => &range.start,
        }
    }

    fn end(&self) -> End<'_> {
        match self {
            LockRange::Key(key) => End::At(key, true),
            LockRange::Range(range) => range.end.as_ref().map_or(End::Open, |end| End::At(end, false)),
        }
    }
}

/// No node.
const NONE: u32 = u32::MAX;

/// A tree without nodes does not keep more room than for so many.
const ROOM_KEPT: usize = 1_024;

#[derive(Debug)]
struct Node<V: Summarize> {
    range: LockRange,
    value: V,
    /// Of everything from here on down.
    summary: V::Summary,
    /// The node whose range ends last, from here on down.
    last: u32,
    height: u8,
    left: u32,
    right: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Intervals<V: Summarize> {
    nodes: Slab<Node<V>>,
    root: u32,
}

impl<V: Summarize> Default for Intervals<V> {
    fn default() -> Self {
        Self { nodes: Slab::new(), root: NONE }
    }
}

impl<V: Summarize> Intervals<V> {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The value of exactly this range.
    pub fn get(&self, range: &LockRange) -> Option<&V> {
        let mut at = self.root;
        while at != NONE {
            let node = self.node(at);
            at = match order(range, &node.range) {
                std::cmp::Ordering::Less => node.left,
                std::cmp::Ordering::Equal => return Some(&node.value),
                std::cmp::Ordering::Greater => node.right,
            };
        }
        None
    }

    /// Change the value of exactly this range, a default one if there is none; it goes if it is nothing then.
    pub fn change(&mut self, range: &LockRange, change: impl FnOnce(&mut V)) {
        let mut change = Some(change);
        self.root = self.change_at(self.root, range, &mut |value| {
            (change.take().expect("a range is there once"))(value);
        });
        if self.nodes.is_empty() && self.nodes.capacity() > ROOM_KEPT {
            self.nodes = Slab::new();
        }
    }

    /// Ask the values that overlap a range; how many nodes were looked at.
    pub fn ask(&self, range: &LockRange, question: &mut impl Question<V>) -> u64 {
        let mut looks = 0;
        self.ask_at(self.root, range, (false, false), question, &mut looks);
        looks
    }

    /// `(is_after, is_before)`: whether every range from here on down begins in the one in question, or after it does, and
    /// before it ends.
    fn ask_at(
        &self,
        at: u32,
        range: &LockRange,
        (is_after, is_before): (bool, bool),
        question: &mut impl Question<V>,
        looks: &mut u64,
    ) {
        if at == NONE {
            return;
        }
        *looks += 1;
        let node = self.node(at);
        if !question.matters(&node.summary) || !self.node(node.last).range.end().is_after(range.start()) {
            return;
        }
        if is_after && is_before && question.take(&node.summary) {
            return;
        }
        if !range.end().is_after(node.range.start()) {
            return self.ask_at(node.left, range, (is_after, false), question, looks);
        }
        // What is newest was most often added last, and begins anywhere.
        let begins_after = node.range.start() >= range.start();
        self.ask_at(node.right, range, (is_after || begins_after, is_before), question, looks);
        if node.range.end().is_after(range.start()) && question.matters(&node.value.summarize()) {
            question.look(&node.value);
        }
        self.ask_at(node.left, range, (is_after, true), question, looks);
    }

    fn node(&self, at: u32) -> &Node<V> {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node<V> {
        &mut self.nodes[at as usize]
    }

    fn height(&self, at: u32) -> u8 {
        if at == NONE { 0 } else { self.node(at).height }
    }

    /// Change a value from here on down; what is here then.
    fn change_at(&mut self, at: u32, range: &LockRange, change: &mut impl FnMut(&mut V)) -> u32 {
        if at == NONE {
            let mut value = V::default();
            change(&mut value);
            if value.is_nothing() {
                return NONE;
            }
            let (range, summary) = (range.clone(), value.summarize());
            let last = u32::try_from(self.nodes.vacant_key()).expect("less locks than fit in memory");
            let node = Node { range, value, summary, last, height: 1, left: NONE, right: NONE };
            self.nodes.insert(node);
            return last;
        }
        let node = self.node(at);
        match order(range, &node.range) {
            std::cmp::Ordering::Less => {
                let left = self.change_at(node.left, range, change);
                self.node_mut(at).left = left;
            }
            std::cmp::Ordering::Greater => {
                let right = self.change_at(node.right, range, change);
                self.node_mut(at).right = right;
            }
            std::cmp::Ordering::Equal => {
                let node = self.node_mut(at);
                change(&mut node.value);
                if node.value.is_nothing() {
                    return self.remove(at);
                }
            }
        }
        self.balance(at)
    }

    /// Remove a node; what is in its place then.
    fn remove(&mut self, at: u32) -> u32 {
        let Node { left, right, .. } = self.nodes.remove(at as usize);
        if left == NONE || right == NONE {
            return if left == NONE { right } else { left };
        }
        let (least, rest) = self.take_least(right);
        let node = self.node_mut(least);
        (node.left, node.right) = (left, rest);
        self.balance(least)
    }

    /// Take the first node off; it, and what is left.
    fn take_least(&mut self, at: u32) -> (u32, u32) {
        let Node { left, right, .. } = *self.node(at);
        if left == NONE {
            return (at, right);
        }
        let (least, rest) = self.take_least(left);
        self.node_mut(at).left = rest;
        (least, self.balance(at))
    }

    fn balance(&mut self, at: u32) -> u32 {
        let Node { left, right, .. } = *self.node(at);
        let (left_height, right_height) = (self.height(left), self.height(right));
        if left_height > right_height + 1 {
            if self.height(self.node(left).left) < self.height(self.node(left).right) {
                let left = self.rotate_left(left);
                self.node_mut(at).left = left;
            }
            return self.rotate_right(at);
        }
        if right_height > left_height + 1 {
            if self.height(self.node(right).right) < self.height(self.node(right).left) {
                let right = self.rotate_right(right);
                self.node_mut(at).right = right;
            }
            return self.rotate_left(at);
        }
        self.sum_up(at);
        at
    }

    fn rotate_left(&mut self, at: u32) -> u32 {
        let up = self.node(at).right;
        self.node_mut(at).right = self.node(up).left;
        self.sum_up(at);
        self.node_mut(up).left = at;
        self.sum_up(up);
        up
    }

    fn rotate_right(&mut self, at: u32) -> u32 {
        let up = self.node(at).left;
        self.node_mut(at).left = self.node(up).right;
        self.sum_up(at);
        self.node_mut(up).right = at;
        self.sum_up(up);
        up
    }

    /// What a node knows of those below it.
    fn sum_up(&mut self, at: u32) {
        let node = self.node(at);
        let (mut summary, mut last) = (node.value.summarize(), at);
        let (mut height, children) = (0, [node.left, node.right]);
        for child in children.into_iter().filter(|child| *child != NONE) {
            let below = self.node(child);
            summary = V::join(summary, below.summary);
            height = height.max(below.height);
            if self.node(below.last).range.end() > self.node(last).range.end() {
                last = below.last;
            }
        }
        let node = self.node_mut(at);
        (node.summary, node.last, node.height) = (summary, last, height + 1);
    }
}

/// By the start, then by the end: a key and a range are never the same.
fn order(this: &LockRange, that: &LockRange) -> std::cmp::Ordering {
    this.start().cmp(that.start()).then_with(|| this.end().cmp(&that.end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::key::KeyRange;
    use proptest::prelude::*;

    /// A number, of which the greatest is asked for.
    #[derive(Clone, Debug, Default, PartialEq)]
    struct Number(u32);

    impl Summarize for Number {
        type Summary = (u32, u32);

        fn summarize(&self) -> (u32, u32) {
            (self.0, self.0)
        }

        fn join(this: (u32, u32), that: (u32, u32)) -> (u32, u32) {
            (this.0.min(that.0), this.1.max(that.1))
        }

        fn is_nothing(&self) -> bool {
            self.0 == 0
        }
    }

    /// The greatest number below a limit.
    struct GreatestBelow(u32, Option<u32>);

    impl Question<Number> for GreatestBelow {
        fn matters(&self, (least, greatest): &(u32, u32)) -> bool {
            *least < self.0 && self.1.is_none_or(|found| found < *greatest)
        }

        fn take(&mut self, (_, greatest): &(u32, u32)) -> bool {
            let is_enough = *greatest < self.0;
            if is_enough {
                self.1 = self.1.max(Some(*greatest));
            }
            is_enough
        }

        fn look(&mut self, Number(number): &Number) {
            if *number < self.0 {
                self.1 = self.1.max(Some(*number));
            }
        }
    }

    fn range() -> impl Strategy<Value = LockRange> {
        // Some are long, so that they lie where they are named, and some begin with others.
        let key = || (0_u8..20, 0_usize..3).prop_map(|(byte, len)| Key::from(vec![byte; 1 + len * 15]));
        prop_oneof![
            2 => key().prop_map(LockRange::Key),
            2 => (key(), key()).prop_map(|(start, end)| {
                let (start, end) = (start.clone().min(end.clone()), start.max(end));
                LockRange::Range(KeyRange { start, end: Some(end) })
            }),
            1 => key().prop_map(|start| LockRange::Range(KeyRange { start, end: None })),
            1 => Just(LockRange::all()),
        ]
    }

    impl<V: Summarize> Intervals<V> {
        /// The height of a subtree that is sound.
        fn check(&self, at: u32) -> u8 {
            if at == NONE {
                return 0;
            }
            let node = self.node(at);
            let (left, right) = (self.check(node.left), self.check(node.right));
            assert!(left.abs_diff(right) <= 1, "balanced");
            assert_eq!(node.height, left.max(right) + 1);
            for child in [node.left, node.right].into_iter().filter(|child| *child != NONE) {
                let is_less = order(&self.node(child).range, &node.range).is_lt();
                assert_eq!(is_less, child == node.left, "in order");
                assert!(self.node(self.node(child).last).range.end() <= self.node(node.last).range.end());
            }
            node.height
        }
    }

    fn overlap(this: &LockRange, that: &LockRange) -> bool {
        let is_empty = |range: &LockRange| matches!(range, LockRange::Range(range) if range.is_empty());
        !is_empty(this) && !is_empty(that) && this.overlaps(that)
    }

    proptest! {
        #[test]
        fn it_answers_as_a_list_does(
            changes in prop::collection::vec((range(), 0_u32..50), 1..120),
            questions in prop::collection::vec((range(), 0_u32..50), 30),
        ) {
            let mut intervals = Intervals::default();
            let mut list: Vec<(LockRange, u32)> = Vec::new();
            for (range, number) in changes {
                intervals.change(&range, |value: &mut Number| value.0 = number);
                list.retain(|(other, _)| *other != range);
                if number > 0 {
                    list.push((range.clone(), number));
                }
                intervals.check(intervals.root);
                prop_assert_eq!(intervals.nodes.len(), list.len());
                prop_assert_eq!(intervals.get(&range).map(|number| number.0), (number > 0).then_some(number));
            }
            for (range, limit) in questions {
                if matches!(&range, LockRange::Range(range) if range.is_empty()) {
                    continue;
                }
                let mut question = GreatestBelow(limit, None);
                intervals.ask(&range, &mut question);
                // An empty range inside of another one may count as overlapping it.
                let found = |is_overlap: &dyn Fn(&LockRange) -> bool| {
                    let all = list.iter().filter(|(other, number)| *number < limit && is_overlap(other));
                    all.map(|(_, number)| *number).max()
                };
                let least = found(&|other| overlap(other, &range));
                let most = found(&|other| {
                    range.end().is_after(other.start()) && other.end().is_after(range.start())
                });
                prop_assert!(question.1 == most && most >= least, "{:?} {:?} {:?}", question.1, least, most);
            }
        }
    }

    #[test]
    fn a_question_looks_at_the_logarithm_of_the_ranges() {
        const COUNT: u32 = 1 << 14;
        let key = |i: u32| Key::from(i.to_be_bytes().to_vec());
        let mut keys = Intervals::default();
        let mut ranges = Intervals::default();
        for i in 0..COUNT {
            keys.change(&LockRange::Key(key(i)), |value: &mut Number| value.0 = i + 1);
            let range = LockRange::Range(KeyRange { start: key(i), end: Some(key(i + 10)) });
            ranges.change(&range, |value: &mut Number| value.0 = i + 1);
        }
        for intervals in [&keys, &ranges] {
            for limit in [COUNT + 1, COUNT / 2, 1] {
                let within = LockRange::Range(KeyRange { start: key(COUNT / 4), end: Some(key(COUNT - 9)) });
                for range in [LockRange::all(), LockRange::Key(key(COUNT / 3)), within] {
                    let looks = intervals.ask(&range, &mut GreatestBelow(limit, None));
                    assert!(looks <= 8 * 14, "{looks} looks");
                }
            }
        }
    }
}
