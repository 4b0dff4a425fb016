//! A defect of the host costs the requests that are open, and nothing that was promised.

use serde_json::json;
use world::Input;

use crate::machine::{Machine, MachineOptions, answer, get, on_program_stack, post, put};
use crate::services;

/// An input that makes a system panic: what was durable is not.
pub fn defect() -> Input {
    Input::Durable(0)
}

#[test]
fn a_panic_of_a_system_answers_500_and_a_new_world_has_lost_nothing() {
    on_program_stack(|| {
        let mut options = MachineOptions::new(1, &services::all());
        options.durable_delay_max = 4;
        let mut machine = Machine::new(options);
        assert_eq!(machine.call(put("/app/hot/r0", json!(7))).0, 200);

        // One transaction waits for the disk, one runs, one comes with the defect, one after it.
        let (held, held_event) = machine.ask(put("/app/hot/r1", json!(8)));
        let (endless, endless_event) = machine.ask(post("/app/hot/bump2", json!({ "spin": 1_000_000_000 })));
        let outputs = machine.tick(vec![held_event, endless_event]).expect("a disk without faults");
        assert!(outputs.replies.is_empty() && outputs.batch.is_some());
        let (together, together_event) = machine.ask(put("/app/hot/r2", json!(9)));
        let outputs = machine.tick(vec![together_event, defect()]).expect("a disk without faults");
        let why = outputs.poisoned.expect("a poisoned host says why");
        assert!(why.contains("stays durable"), "{why}");
        assert!(outputs.batch.is_none(), "nothing of the tick is stored");
        let answers: Vec<_> = outputs.replies.iter().map(|(id, reply)| (*id, answer(reply).0)).collect();
        assert_eq!(answers, [(held, 500), (endless, 500), (together, 500)], "one answer each");

        let (late, late_event) = machine.ask(get("/app/hot/r0"));
        let outputs = machine.tick(vec![late_event]).expect("a disk without faults");
        assert!(outputs.poisoned.is_some() && outputs.batch.is_none());
        assert_eq!((outputs.replies[0].0, answer(&outputs.replies[0].1).0), (late, 500));

        machine.rebuild();
        assert_eq!(machine.value("/app/hot/r0"), json!(7), "what was acknowledged");
        assert_eq!(machine.value("/app/hot/r1"), json!(8), "what had committed before the defect");
        assert_eq!(machine.value("/app/hot/r2"), json!(2), "what had not");
        assert_eq!(machine.call(post("/app/hot/bump0", json!({ "spin": 0 }))), (200, json!(8)));
        assert_eq!(machine.host.open_requests(), 0);
    });
}
