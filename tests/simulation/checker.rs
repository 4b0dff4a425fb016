//! Is there a serial execution that explains a history? (Strict serializability, by search.)
//!
//! The checker knows what was asked, what was answered, and when; and a model of what one operation does alone.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// What one operation does if nothing else happens at the same time.
pub trait Model: Clone + Debug + Eq + Hash {
    /// An operation.
    type Action: Debug;
    /// What is answered.
    type Answer: Debug + Eq;

    /// Do it, and give the answer.
    fn apply(&mut self, action: &Self::Action) -> Self::Answer;

    /// The key that this operation overwrites without looking, with the value: those are placed last.
    fn blind_write(action: &Self::Action) -> Option<(usize, i64)>;

    /// Whether this answer shows that value of that key.
    fn shows(action: &Self::Action, answer: &Self::Answer, key: usize, value: i64) -> bool;
}

/// An operation of a history.
#[derive(Clone, Debug)]
pub struct Operation<A, R> {
    /// When it was asked.
    pub invoked: u64,
    /// When it was answered; what was never answered may have happened or not.
    pub answered: Option<(u64, R)>,
    /// What was asked.
    pub action: A,
}

/// A history, in any order.
pub type History<M> = Vec<Operation<<M as Model>::Action, <M as Model>::Answer>>;

/// How many states the search looks at before it gives up.
const STATES_MAX: usize = 400_000;

/// Find a serial order of the operations that gives every answer, and in which whatever was answered before another
/// operation was asked comes before it.
pub fn check<M: Model>(initial: &M, history: &History<M>) -> Result<M, String> {
    let mut order: Vec<usize> = (0..history.len()).collect();
    order.sort_by_key(|i| (history[*i].invoked, *i));
    let mut search = Search { history, order, seen: HashSet::new(), furthest: 0, stuck: String::new() };
    let mut done = vec![false; history.len()];
    match search.place(initial.clone(), &mut done, 0) {
        Some(end) => Ok(end),
        None if search.seen.len() >= STATES_MAX => Err("the search was given up".to_string()),
        None => Err(format!("no serial order explains this history; {}", search.stuck)),
    }
}

struct Search<'h, M: Model> {
    history: &'h History<M>,
    order: Vec<usize>,
    seen: HashSet<(Vec<bool>, M)>,
    furthest: usize,
    stuck: String,
}

impl<M: Model> Search<'_, M> {
    /// Place the rest of the operations.
    fn place(&mut self, mut state: M, done: &mut Vec<bool>, mut placed: usize) -> Option<M> {
        let mut undo = Vec::new();
        let end = self.place_rest(&mut state, done, &mut placed, &mut undo);
        if end.is_none() {
            for i in undo {
                done[i] = false;
            }
        }
        end
    }

    /// The operations that may come next: those that were asked before any other that is not placed was answered.
    fn candidates(&self, done: &[bool]) -> Vec<usize> {
        let open = self.order.iter().copied().filter(|i| !done[*i]);
        let first_answer =
            open.clone().filter_map(|i| self.history[i].answered.as_ref()).map(|(at, _)| *at).min();
        open.filter(|i| first_answer.is_none_or(|first| self.history[*i].invoked <= first)).collect()
    }

    fn place_rest(
        &mut self,
        state: &mut M,
        done: &mut Vec<bool>,
        placed: &mut usize,
        undo: &mut Vec<usize>,
    ) -> Option<M> {
        // What changes nothing and fits here may as well be here.
        loop {
            let read = self.candidates(done).into_iter().find(|i| {
                let operation = &self.history[*i];
                let mut after = state.clone();
                let answer = after.apply(&operation.action);
                operation.answered.as_ref().is_some_and(|(_, seen)| *seen == answer) && after == *state
            });
            let Some(read) = read else { break };
            done[read] = true;
            undo.push(read);
            *placed += 1;
        }
        let candidates = self.candidates(done);
        if !candidates.iter().any(|i| self.history[*i].answered.is_some()) {
            return Some(state.clone());
        }
        if self.seen.len() >= STATES_MAX || !self.seen.insert((done.clone(), state.clone())) {
            return None;
        }
        let mut choices: Vec<(u8, usize, M)> = Vec::new();
        for i in &candidates {
            let operation = &self.history[*i];
            let mut after = state.clone();
            let answer = after.apply(&operation.action);
            let fits = operation.answered.as_ref().is_none_or(|(_, seen)| *seen == answer);
            if fits {
                choices.push((self.rank(*i, &candidates), *i, after));
            }
        }
        choices.sort_by_key(|(rank, i, _)| {
            (*rank, self.history[*i].answered.as_ref().map_or(u64::MAX, |(at, _)| *at), *i)
        });
        if choices.is_empty() && *placed >= self.furthest {
            self.furthest = *placed;
            let open: Vec<_> = candidates.iter().map(|i| &self.history[*i]).collect();
            self.stuck = format!("after {placed} operations, at {state:?}, none of these fits: {open:#?}");
        }
        for (_, i, after) in choices {
            done[i] = true;
            if let Some(end) = self.place(after, done, *placed + 1) {
                return Some(end);
            }
            done[i] = false;
        }
        None
    }

    /// A write that nobody has looked at yet fits everywhere: better choices come first.
    fn rank(&self, i: usize, candidates: &[usize]) -> u8 {
        let operation = &self.history[i];
        match (&operation.answered, M::blind_write(&operation.action)) {
            (None, _) => 3,
            (Some(_), None) => 0,
            (Some(_), Some((key, value))) => {
                let is_shown = candidates.iter().filter_map(|other| {
                    let other = &self.history[*other];
                    other.answered.as_ref().map(|(_, answer)| M::shows(&other.action, answer, key, value))
                });
                if is_shown.into_iter().any(|shown| shown) { 1 } else { 2 }
            }
        }
    }
}
