//! What a job costs that has nothing to do.

use std::time::{Duration, Instant};

use deltajoin_testkit::{Signal, wait_until};

use crate::case::LIMIT;
use crate::support::{config, held, live, tell};

/// Long enough that a hundredth of a second of CPU, the unit of the figures, is little.
const MEASURED: Duration = Duration::from_secs(5);

#[test]
fn an_idle_job_is_cheap_and_quiet() {
    let (folder, _pipe) = held(&config(2));
    let mut job = folder.start(&["cluster", "--config", "job.toml"]);
    live(&folder, 2, 0);
    let (cpu, lines, since) = (job.usage().cpu, job.stderr().len(), Instant::now());
    wait_until("time", LIMIT, || since.elapsed() >= MEASURED);
    let used = (job.usage().cpu - cpu).as_secs_f64();
    let share = used / since.elapsed().as_secs_f64() / 2.0;
    let percent = share * 100.0;
    tell(&format!(
        "idle: {percent:.2} % of a core for each of two workers"
    ));
    // Time of CPU, so it is little more on a busy machine: measured 0.4 to 0.5 % in this build.
    assert!(share < 0.02, "{share}");
    assert_eq!(job.stderr().len(), lines, "{:#?}", job.stderr());
    job.signal(Signal::Terminate);
    job.wait(LIMIT).assert_code(0);
}
