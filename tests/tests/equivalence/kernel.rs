//! The kernel program: as many of its tables as the rules need.

use ftagent::{
    bpf::{
        rules::{Placed, RulesError, compile::compile},
        testrun::{HZ, MIN_FRAME, TestRun},
    },
    rule::{Action, FlowMatch, Origin, Rule},
};

use super::{Case, met};

/// The rules in tables of the kernel program.
pub struct Kernel {
    tables: Vec<Table>,
}

/// A table: an instance of the program, and the number of the rule in each slot.
struct Table {
    run: TestRun,
    rules: Vec<usize>,
    counted: Vec<u64>,
}

fn placed(slot: usize, matches: &FlowMatch) -> Placed {
    let rule = Rule { matches: matches.clone(), action: Action::Count, origin: Origin::Config, reason: String::new() };
    Placed { slot: slot as u8, rule, expires: u64::MAX }
}

impl Kernel {
    /// Fills one table after another.
    pub fn new(rules: &[FlowMatch]) -> Self {
        let (mut tables, mut next) = (Vec::new(), 0);
        while next < rules.len() {
            let slots: Vec<Placed> =
                rules[next..].iter().take(256).enumerate().map(|(slot, matches)| placed(slot, matches)).collect();
            let fit = match compile(&slots) {
                Ok(_) => slots.len(),
                Err(RulesError::Compile { slot, .. }) => usize::from(slot),
                Err(error) => panic!("{error}"),
            };
            assert!(fit > 0, "rule {next} fits no table: {}", rules[next]);
            let mut run = TestRun::new(1).unwrap();
            run.rules.install(&slots[..fit], HZ).unwrap();
            tables.push(Table { run, rules: (next..next + fit).collect(), counted: vec![0; fit] });
            next += fit;
        }
        Self { tables }
    }

    /// Has every packet pass every table, and compares what each rule counted; finds the packet where that
    /// differs.
    pub fn compare(&mut self, rules: &[FlowMatch], cases: &[&Case]) {
        let cases: Vec<&Case> = cases.iter().copied().filter(|case| case.frame.len() >= MIN_FRAME).collect();
        let expected = met(&cases, rules.len());
        let found = self.count(&cases, rules.len());
        let Some(rule) = (0..rules.len()).find(|rule| expected[*rule] != found[*rule]) else { return };
        for case in &cases {
            let found = self.count(&[case], rules.len())[rule];
            let expected = u64::from(case.met.contains(&rule));
            assert_eq!(
                found, expected,
                "the kernel, of `{}` and {:02x?} ({:?})",
                rules[rule], case.frame, case.packet.key
            );
        }
        panic!(
            "the kernel counted {} instead of {} for `{}`, and no packet shows it",
            found[rule], expected[rule], rules[rule]
        );
    }

    fn count(&mut self, cases: &[&Case], rules: usize) -> Vec<u64> {
        let mut counts = vec![0; rules];
        for Table { run, rules, counted } in &mut self.tables {
            for case in cases {
                run.run(&case.frame).unwrap();
            }
            let now = run.rules.counters().unwrap();
            for ((slot, rule), before) in rules.iter().enumerate().zip(counted) {
                counts[*rule] = now.slots[slot].packets - std::mem::replace(before, now.slots[slot].packets);
            }
        }
        counts
    }
}
