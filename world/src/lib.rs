//! What runs when: the `World`, the schedules, `Host::tick`, and the simulator.
