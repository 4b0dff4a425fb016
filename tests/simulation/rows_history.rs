//! Many clients at work on collections, what was recorded of that, and whether one transaction after the other, in the
//! order of their ids, explains it.
//!
//! The checker knows requests, answers, ids, which transactions committed in which order, and nothing of the host.

use std::collections::BTreeMap;

use components::TxnId;
use components::transaction::RequestId;
use serde_json::Value;
use world::{Input, Statistics};

use crate::machine::{Crashed, Machine, answer, with_id};
use crate::random::Random;
use crate::rows::{Action, Model};

/// One request.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub action: Action,
    /// Whether the client chose the id.
    pub is_chosen: bool,
    pub is_cancelled: bool,
    /// In which tick it was asked.
    pub asked_at: u64,
    /// In which tick it was answered.
    pub answered_at: u64,
    /// The id under which it ended.
    pub id: Option<TxnId>,
    /// How many transactions had committed before it, if it committed.
    pub commit: Option<usize>,
    pub answered: Option<(u16, Value)>,
}

/// What happened to one machine from its start to its end.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub all: Vec<Recorded>,
    pub commits: usize,
    requests: BTreeMap<RequestId, usize>,
}

/// How many ticks a load may take.
const TICKS_MAX: u64 = 50_000;

/// What a load is made of.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many requests.
    pub requests: usize,
    /// How many come in one tick at most.
    pub per_tick: usize,
    /// One in so many requests is cancelled; none if zero.
    pub cancels: usize,
    /// One in so many requests has an id that the client chose; none if zero.
    pub chosen: usize,
    /// Makes a request.
    pub action: fn(&mut Random) -> Action,
}

fn is_one_in(random: &mut Random, count: usize) -> bool {
    count > 0 && random.one_in(count)
}

impl History {
    /// Ask for something, and note that.
    pub fn ask(&mut self, machine: &mut Machine, action: Action, chosen: Option<TxnId>) -> Input {
        let request = action.request();
        let request = match chosen {
            Some(id) => with_id(request, id),
            None => request,
        };
        let (id, event) = machine.ask(request);
        self.requests.insert(id, self.all.len());
        self.all.push(Recorded {
            action,
            is_chosen: chosen.is_some(),
            is_cancelled: false,
            // What is asked now comes with the next tick.
            asked_at: machine.ticks + 1,
            answered_at: u64::MAX,
            id: None,
            commit: None,
            answered: None,
        });
        event
    }

    /// Tick, and note what has happened.
    pub fn tick(&mut self, machine: &mut Machine, events: Vec<Input>) -> Result<(), Crashed> {
        let outputs = machine.tick(events)?;
        assert_eq!(outputs.poisoned, None);
        for ended in &outputs.ended {
            let recorded = &mut self.all[self.requests[&ended.request]];
            assert_eq!(recorded.id, None, "a transaction ends once");
            recorded.id = Some(ended.id);
            if ended.is_commit {
                recorded.commit = Some(self.commits);
                self.commits += 1;
            }
        }
        for (request, reply) in &outputs.replies {
            let recorded = &mut self.all[self.requests[request]];
            assert!(recorded.answered.is_none(), "one answer each");
            recorded.answered = Some(answer(reply));
            recorded.answered_at = machine.ticks;
        }
        Ok(())
    }

    /// Ask for one thing and wait for the answer.
    pub fn call(&mut self, machine: &mut Machine, action: Action) -> Result<Value, Crashed> {
        let at = self.all.len();
        let mut events = vec![self.ask(machine, action, None)];
        let last = machine.ticks + TICKS_MAX;
        loop {
            self.tick(machine, std::mem::take(&mut events))?;
            if let Some((status, body)) = &self.all[at].answered {
                assert_eq!(*status, 200, "{:?}: {body}", self.all[at].action);
                return Ok(body.clone());
            }
            assert!(machine.ticks < last, "no answer");
        }
    }

    /// Many clients at once, until everything is answered.
    pub fn work(&mut self, machine: &mut Machine, random: &mut Random, load: Load) -> Result<(), Crashed> {
        let end = self.all.len() + load.requests;
        let last = machine.ticks + TICKS_MAX;
        while self.all.len() < end || machine.has_work() {
            let mut events = Vec::new();
            for _ in 0..random.below(load.per_tick + 1).min(end - self.all.len()) {
                let action = (load.action)(random);
                // Around now, so that others come before and after.
                let chosen = is_one_in(random, load.chosen).then(|| {
                    let time_ns = machine.now_ns + 1_500_000 - random.below(4_000_000) as u64;
                    TxnId::new(time_ns, 2 + random.below(60_000) as u16)
                });
                events.push(self.ask(machine, action, chosen));
            }
            if is_one_in(random, load.cancels) && !self.all.is_empty() {
                let (request, at) =
                    self.requests.iter().nth(random.below(self.requests.len())).expect("a request");
                if self.all[*at].answered.is_none() {
                    self.all[*at].is_cancelled = true;
                    events.push(Input::Cancel(*request));
                }
            }
            self.tick(machine, events)?;
            assert!(machine.ticks < last, "the host does not come to rest");
        }
        if let Some(open) = self.all.iter().find(|one| one.answered.is_none()) {
            let query = world::InspectQuery { limit: 100, ..Default::default() };
            let shown = machine.host.inspect(&query);
            let (transactions, locks) = (&shown["entities"]["transaction"], &shown["entities"]["lock"]);
            panic!("this was never answered: {open:#?}\n{transactions:#}\n{locks:#}");
        }
        Ok(())
    }

    /// The commits that clients know of: what is durable has at least these.
    pub fn acknowledged(&self) -> usize {
        let answered = self.all.iter().filter(|one| one.answered.is_some());
        answered.filter_map(|one| one.commit).map(|commit| commit + 1).max().unwrap_or(0)
    }

    fn in_order(&self) -> Vec<&Recorded> {
        let mut ended: Vec<&Recorded> = self.all.iter().filter(|one| one.id.is_some()).collect();
        ended.sort_by_key(|one| one.id);
        ended
    }

    /// Every answer is that of a transaction that has ended, or of a request that was refused before it became one.
    fn check_refusals(&self) -> Result<(), String> {
        let is_explained = |one: &&Recorded| match &one.answered {
            // An id that was seen before.
            Some((status, _)) if one.id.is_none() => *status == 409 && one.is_chosen,
            _ => true,
        };
        match self.all.iter().find(|one| !is_explained(one)) {
            Some(one) => Err(format!("it was answered without a transaction\n{one:#?}")),
            None => Ok(()),
        }
    }

    /// What was answered before something else was asked comes before it, unless a client has chosen the order.
    fn check_real_time(&self) -> Result<(), String> {
        let mut real: Vec<&Recorded> = self
            .in_order()
            .into_iter()
            .filter(|one| !one.is_chosen && !one.action.is_hypothetical() && one.answered.is_some())
            .collect();
        // From the last id on: nothing that comes later in the order was answered before this one was asked.
        let mut first_answered: Option<&Recorded> = None;
        while let Some(one) = real.pop() {
            if let Some(later) = first_answered
                && later.answered_at < one.asked_at
            {
                return Err(format!(
                    "the order of ids is not that of time:\n{later:#?}\nwas answered before\n{one:#?}"
                ));
            }
            if first_answered.is_none_or(|first| one.answered_at < first.answered_at) {
                first_answered = Some(one);
            }
        }
        Ok(())
    }

    /// Check every answer against the serial history of the first commits; what there is after them.
    pub fn check(&self, initial: &Model, survivors: usize) -> Result<Model, String> {
        self.check_refusals()?;
        self.check_real_time()?;
        let mut model = initial.clone();
        for one in self.in_order() {
            let wrong = |why: String| format!("{why}\n{one:#?}");
            if let Some((status, _)) = &one.answered {
                self.check_status(one, *status).map_err(wrong)?;
            }
            let answered = one.answered.as_ref().filter(|(status, _)| *status == 200).map(|(_, body)| body);
            if one.action.is_hypothetical() {
                if let Some(body) = answered {
                    self.check_hypothetical(initial, one, body, survivors).map_err(wrong)?;
                }
                continue;
            }
            match one.commit {
                Some(commit) if commit >= survivors => {
                    if one.answered.is_some() {
                        return Err(wrong("it was acknowledged, and is lost".to_string()));
                    }
                }
                Some(_) => match answered {
                    Some(body) => one.action.check(&mut model, body).map_err(wrong)?,
                    None => one.action.run(&mut model),
                },
                None => {
                    if let Some(body) = answered {
                        let mut after = model.clone();
                        one.action.check(&mut after, body).map_err(wrong)?;
                        if after != model {
                            return Err(wrong("it has changed something without a commit".to_string()));
                        }
                    }
                }
            }
        }
        Ok(model)
    }

    fn check_status(&self, one: &Recorded, status: u16) -> Result<(), String> {
        let is_expected = match status {
            200 => !one.action.fails(),
            403 => one.action.fails(),
            408 => one.is_cancelled,
            409 => one.is_chosen,
            _ => false,
        };
        match (is_expected, status == 200 || one.commit.is_none()) {
            (false, _) => Err(format!("it ended with {status}")),
            (true, false) => Err(format!("it ended with {status}, and committed")),
            (true, true) => Ok(()),
        }
    }

    /// A hypothetical transaction is consistent in itself: it sees the first commits, however many. All that were
    /// acknowledged before it was asked are among them (unless the client has chosen an earlier place for it), and none
    /// that was asked for after it was answered (README, *Hypothetical queries*).
    fn check_hypothetical(
        &self,
        initial: &Model,
        one: &Recorded,
        body: &Value,
        survivors: usize,
    ) -> Result<(), String> {
        let commits = || self.all.iter().filter(|other| other.commit.is_some());
        let number = |other: &Recorded| other.commit.expect("a commit");
        let acknowledged = commits().filter(|other| other.answered_at < one.asked_at);
        let first = acknowledged.map(|other| number(other) + 1).max().unwrap_or(0);
        let later = commits().filter(|other| other.asked_at > one.answered_at);
        let last = later.map(number).min().unwrap_or(survivors).min(survivors);
        let mut first_why = None;
        for snapshot in first.min(last)..=last {
            let mut model = initial.clone();
            let is_before = |other: &&Recorded| !one.is_chosen || other.id < one.id;
            for other in self.in_order().into_iter().filter(is_before) {
                if other.commit.is_some_and(|commit| commit < snapshot) {
                    other.action.run(&mut model);
                }
            }
            match one.action.check(&mut model, body) {
                Ok(()) => return Ok(()),
                Err(why) => first_why = first_why.or(Some(why)),
            }
        }
        Err(format!("no snapshot explains it; {}", first_why.expect("a snapshot")))
    }
}

/// How often what could go wrong has happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub committed: u64,
    pub read_only: u64,
    pub failed: u64,
    pub restarts: u64,
    pub refusals: u64,
    pub page_loads: u64,
    pub evictions: u64,
    pub folds: u64,
    pub splits: u64,
    pub joins: u64,
    pub deletions: u64,
    pub checkpoints: u64,
    pub stagings: u64,
    pub unstagings: u64,
    pub crashes: u64,
    pub hypothetical: u64,
    pub histories: u64,
}

impl Counts {
    /// Add what one machine has seen.
    pub fn add(&mut self, statistics: Statistics, history: &History) {
        self.committed += statistics.committed;
        self.read_only += statistics.read_only;
        self.failed += statistics.failed;
        self.restarts += statistics.retried;
        self.refusals += statistics.conflicts;
        self.page_loads += statistics.page_loads;
        self.evictions += statistics.page_evictions;
        self.folds += statistics.page_folds;
        self.splits += statistics.page_splits;
        self.joins += statistics.page_joins;
        self.deletions += statistics.page_deletions;
        self.checkpoints += statistics.checkpoints;
        self.stagings += statistics.page_stagings;
        self.unstagings += statistics.page_unstagings;
        let done = || history.all.iter().filter(|one| matches!(one.answered, Some((200, _))));
        self.hypothetical += done().filter(|one| one.action.is_hypothetical()).count() as u64;
        self.histories += done().filter(|one| matches!(one.action, Action::History(..))).count() as u64;
    }

    /// The sum of both.
    pub fn with(&self, other: &Counts) -> Counts {
        Counts {
            committed: self.committed + other.committed,
            read_only: self.read_only + other.read_only,
            failed: self.failed + other.failed,
            restarts: self.restarts + other.restarts,
            refusals: self.refusals + other.refusals,
            page_loads: self.page_loads + other.page_loads,
            evictions: self.evictions + other.evictions,
            folds: self.folds + other.folds,
            splits: self.splits + other.splits,
            joins: self.joins + other.joins,
            deletions: self.deletions + other.deletions,
            checkpoints: self.checkpoints + other.checkpoints,
            stagings: self.stagings + other.stagings,
            unstagings: self.unstagings + other.unstagings,
            crashes: self.crashes + other.crashes,
            hypothetical: self.hypothetical + other.hypothetical,
            histories: self.histories + other.histories,
        }
    }

    /// Each of these must have happened.
    pub fn assert_all(&self, counts: &[(&str, u64)]) {
        for (what, count) in counts {
            assert!(*count > 0, "there were no {what}: {self:?}");
        }
    }
}
