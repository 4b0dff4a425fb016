//! What a transaction records in a history, encoded as it comes: many rows are a few bytes each, and no states.

use super::Mutation;
use crate::language::encode::StoredMutation;
use crate::language::{decode, tbon};
use crate::value::error::Result;

/// Mutations in the order in which they were recorded, in the forms in which they are stored and hashed.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// As a list without its brackets, in TBON, whose items follow one another without anything between them.
    stored: Vec<u8>,
    /// The same as it is hashed, if that is not the same: an id is stored as an id, and hashed as it is shown.
    hashed: Option<Vec<u8>>,
    count: usize,
}

impl Recorded {
    /// These mutations.
    pub fn of(mutations: &[Mutation]) -> Self {
        let mut recorded = Self::default();
        mutations.iter().for_each(|mutation| recorded.push(mutation));
        recorded
    }

    /// Record one more.
    pub fn push(&mut self, mutation: &Mutation) {
        let start = self.stored.len();
        tbon::append(&mut self.stored, &StoredMutation(mutation));
        self.count += 1;
        match &mut self.hashed {
            Some(hashed) => tbon::append(hashed, mutation),
            None if mutation.has_id() => {
                let mut hashed = self.stored[..start].to_vec();
                tbon::append(&mut hashed, mutation);
                self.hashed = Some(hashed);
            }
            None => {
                debug_assert_eq!(tbon::encode(mutation), self.stored[start..], "forms differ for ids only")
            }
        }
    }

    /// Record more.
    pub fn append(&mut self, other: Self) {
        if self.stored.is_empty() {
            *self = other;
            return;
        }
        if self.hashed.is_some() || other.hashed.is_some() {
            let mut hashed = self.hashed.take().unwrap_or_else(|| self.stored.clone());
            hashed.extend_from_slice(other.hashed());
            self.hashed = Some(hashed);
        }
        self.stored.extend_from_slice(&other.stored);
        self.count += other.count;
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many mutations were recorded.
    pub fn len(&self) -> usize {
        self.count
    }

    /// What this takes in memory, in bytes.
    pub fn bytes(&self) -> u64 {
        (self.stored.len() + self.hashed.as_ref().map_or(0, Vec::len)) as u64
    }

    /// The form that is hashed, without the brackets of the list.
    pub fn hashed(&self) -> &[u8] {
        self.hashed.as_ref().unwrap_or(&self.stored)
    }

    /// The form that is stored: [`decode::stored_mutations`] reads it.
    pub fn stored(&self) -> Vec<u8> {
        let mut list = Vec::with_capacity(self.stored.len() + 2);
        list.push(b'[');
        list.extend_from_slice(&self.stored);
        list.push(b']');
        list
    }

    /// The mutations.
    ///
    /// # Errors
    /// None: what was encoded can be decoded.
    pub fn mutations(&self) -> Result<Vec<Mutation>> {
        decode::stored_mutations(&self.stored())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::chain::{Block, BlockHasher, FIRST_BLOCK};
    use crate::language::encode::tests::any_stored_state;
    use crate::value::name::Path;
    use crate::{TxnId, Value};
    use proptest::prelude::*;

    fn any_mutations() -> impl Strategy<Value = Vec<Mutation>> {
        let path = prop_oneof![Just("/"), Just("/0"), Just("/a/b")];
        let one = (path, any_stored_state(), any_stored_state(), any::<bool>());
        let mutation = one.prop_map(|(path, key, value, is_put)| {
            let path = Path::parse(path).unwrap();
            let key = key.to_value().unwrap_or(Value::None);
            match is_put {
                true => Mutation::put(path, &key, &value).unwrap(),
                false => Mutation::delete(path, &key).unwrap(),
            }
        });
        prop::collection::vec(mutation, 0..6)
    }

    proptest! {
        #[test]
        fn what_is_recorded_is_hashed_and_stored_as_if_it_came_as_it_is(
            first in any_mutations(), second in any_mutations()
        ) {
            let mut recorded = Recorded::of(&first);
            recorded.append(Recorded::of(&second));
            let all = [first, second].concat();
            prop_assert_eq!(recorded.len(), all.len());
            prop_assert_eq!(recorded.is_empty(), all.is_empty());
            // As pages of the protocol have it, the block is hashed as it is shown.
            let id = TxnId::new(1, 1);
            let mut hasher = BlockHasher::new(FIRST_BLOCK);
            hasher.add_recorded(id, &recorded);
            let block = Block { previous: FIRST_BLOCK.to_vec(), transactions: vec![(id, all.clone())] };
            prop_assert_eq!(hasher.bytes(), tbon::encode(&block).len() as u64);
            prop_assert_eq!(hasher.hash(), block.hasher().hash());
            let read = recorded.mutations().unwrap();
            prop_assert_eq!(format!("{read:?}"), format!("{all:?}"));
        }
    }
}
