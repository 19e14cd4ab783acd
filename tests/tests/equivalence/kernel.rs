//! The kernel program: as many of its tables as the rules need.

use ftagent::{
    bpf::{
        rules::{Placed, RulesError, compile::compile},
        testrun::{HZ, MIN_FRAME, TestRun},
    },
    rule::{Action, FlowMatch, Origin, Rule},
};

use super::{Case, Sum, met};

/// The rules in tables of the kernel program.
pub struct Kernel {
    tables: Vec<Table>,
}

/// A table: an instance of the program, and the number of the rule in each slot.
struct Table {
    run: TestRun,
    rules: Vec<usize>,
    counted: Vec<Sum>,
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
            tables.push(Table { run, rules: (next..next + fit).collect(), counted: vec![Sum::default(); fit] });
            next += fit;
        }
        Self { tables }
    }

    /// Has every packet pass every table, and compares what each rule counted; finds the packet where that
    /// differs. Returns how many packets were long enough for it.
    pub fn compare(&mut self, rules: &[FlowMatch], cases: &[&Case]) -> u64 {
        let cases: Vec<&Case> = cases.iter().copied().filter(|case| case.frame.len() >= MIN_FRAME).collect();
        let expected = met(&cases, rules.len(), <[u8]>::len);
        let found = self.count(&cases, rules.len());
        let wrong = (0..rules.len()).find(|rule| expected[*rule] != found[*rule]);
        let Some(rule) = wrong else { return cases.len() as u64 };
        for case in &cases {
            let found = self.count(&[case], rules.len())[rule];
            let expected = met(&[case], rules.len(), <[u8]>::len)[rule];
            assert_eq!(
                found, expected,
                "the kernel, of `{}` and {:02x?} ({:?})",
                rules[rule], case.frame, case.packet.key
            );
        }
        panic!(
            "the kernel counted {:?} instead of {:?} for `{}`, and no packet shows it",
            found[rule], expected[rule], rules[rule]
        );
    }

    fn count(&mut self, cases: &[&Case], rules: usize) -> Vec<Sum> {
        let mut counts = vec![Sum::default(); rules];
        for Table { run, rules, counted } in &mut self.tables {
            for case in cases {
                run.run(&case.frame).unwrap();
            }
            let now = run.rules.counters().unwrap();
            for ((slot, rule), before) in rules.iter().enumerate().zip(counted) {
                let ftagent_common::rules::Counter { packets, bytes, .. } = now.slots[slot];
                counts[*rule] = Sum { packets, bytes }.since(before);
            }
        }
        counts
    }
}
