//! Tests of what the step loop forgets.

use super::*;
use crate::batch::{Batch, BatchSchema};
use crate::bindings::BindingLog;
use crate::checkpoint::Told;
use crate::clock::{EventTime, ExpiryClock, Seen, TimeUnit};
use crate::dataflow::SinkPort;
use crate::operators::{Distinct, Join, Keep, Letters, Strategy, Unmatched};
use crate::queue::{InFlight, queue};
use crate::schema::{Column, ColumnType, Schema};
use crate::state::BucketRing;

/// Stands still, and hears nothing.
struct Outside;

impl Clock for Outside {
    fn now_us(&self) -> u64 {
        0
    }
}

impl Observer for Outside {
    fn live(&self) {}

    fn written(&self, _: u64, _: u64) {}

    fn lag_records(&self) -> u64 {
        0
    }

    fn progress(&self, _: &Progress) {}
}

/// A log in which everything is durable at once.
struct Log(u64);

impl BindingLog for Log {
    fn append(&mut self, _: Binding) {
        self.0 += 1;
    }

    fn durable(&self) -> u64 {
        self.0
    }

    fn wake_by(&mut self, _: Waker) {}
}

fn plan(keep: Keep, revise: bool) -> Plan {
    let columns = |names: &[&str]| {
        let column = |name: &&str| Column::new(name, ColumnType::Int64);
        let schema = Schema::new(names.iter().map(column).collect(), vec![0]);
        BatchSchema::register(schema)
    };
    let time = Some(EventTime {
        column: 1,
        unit: TimeUnit::Milliseconds,
    });
    Plan {
        engine: Engine::Production,
        shards: 4,
        distinct: Distinct {
            time,
            by_arrival: keep != Keep::First,
            horizon_ms: 1000,
            future_ms: u64::MAX,
            duplicates: keep != Keep::First,
            detect_conflicts: false,
        },
        join: Join {
            event_columns: vec![2],
            strategy: Strategy::Broadcast,
            unmatched: Unmatched::Keep,
            revise,
            keep,
            detect_conflicts: false,
            window_ms: 1000,
            time,
            reference: columns(&["place"]),
            joined: columns(&["id", "at", "place"]),
        },
        letters: Letters {
            source_name: "events".into(),
            event_text: Arc::new(|_: &Batch, _, _| {}),
        },
    }
}

/// The one worker of a job to which nothing happens.
fn idle(worker: &mut Worker, plan: Plan, log: Option<Log>) -> This {
    let (_, events) = queue(InFlight::new(1));
    let events = Rc::new(events);
    let control = Control::build(worker);
    let counts = SharedCounts::default();
    let ports = Ports {
        first_of_process: true,
        events: Rc::clone(&events),
        epoch_bytes_max: 1,
        reference: None,
        replay: Replay::default(),
        bindings: log.map(|log| Box::new(log) as _),
        clock: ExpiryClock::default(),
        keys: BucketRing::new(true),
        recent: (0, plan.join.recent_rows(None)),
        told: Told::default(),
        checkpoints: None,
        sinks: Vec::new(),
        dead_letters: SinkPort {
            name: "dead".to_owned(),
            single_writer: true,
            sink: None,
        },
    };
    let settings = Settings {
        plan: plan.clone(),
        tick: Duration::ZERO,
        clock: Arc::new(Outside),
        observer: Arc::new(Outside),
        stop: Arc::default(),
    };
    This {
        first_here: true,
        settings,
        control,
        dataflow: worker.dataflow(|scope| dataflow::build(scope, plan, ports, &counts)),
        events,
        counts,
        asked_us: 0,
        said_exhausted: false,
        said_stop: false,
        said_live: false,
        reported_us: 0,
    }
}

#[test]
fn the_clocks_of_epochs_that_are_written_are_forgotten_also_where_nobody_asks_for_them() {
    // By arrival, or where nothing is held, or without a log, one or the other never asks.
    for (keep, revise) in [Keep::First, Keep::Latest]
        .map(|keep| [(keep, false), (keep, true)])
        .concat()
    {
        for log in [false, true] {
            timely::execute_directly(move |worker| {
                let log = log.then_some(Log(0));
                let mut this = idle(worker, plan(keep, revise), log);
                for epoch in 1..500 {
                    this.dataflow.clock.borrow_mut().observe(Seen {
                        partition: 0,
                        greatest_ms: i64::try_from(epoch).ok(),
                        lags: Some(true),
                    });
                    this.dataflow.mint(epoch, true, false);
                    let written = this.dataflow.written.clone();
                    worker.step_while(|| written.less_equal(&epoch));
                    this.turn();
                    let known = this.dataflow.clocks.len();
                    assert!(known <= 2, "{known} after {epoch}: {keep:?}, {revise}");
                }
                std::mem::take(&mut this.dataflow.mints).close();
                this.leave();
            });
        }
    }
}
