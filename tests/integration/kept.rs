//! What a job over files keeps: it is shown and verified, and where it is gone nothing is guessed.

use crate::going_on::{BINDINGS, ROWS, keys, length, refused, run, small};

#[test]
fn rows_of_which_neither_the_log_nor_a_checkpoint_is_left_are_not_written_again() {
    let folder = small(10);
    run(&folder, &[]);
    std::fs::remove_dir_all(folder.path("state")).unwrap();
    // A start makes the log anew, and the next must not take that for the log that was lost.
    for _ in 0..2 {
        refused(&folder, &[], &["and nothing is bound in", "state reset"]);
    }
    folder.forget();
    run(&folder, &[]);
    assert_eq!(keys(&folder), (0..10).collect::<Vec<_>>());
}

#[test]
fn what_is_bound_and_written_is_shown_and_every_byte_of_it_verified() {
    let folder = small(10);
    run(&folder, &[]);
    let show = |arguments: &[&str]| folder.run_job("state", arguments);
    let outcome = show(&["--verify"]);
    outcome.assert_code(0);
    let shown = outcome.stdout.join("\n");
    let bytes = length(&folder, ROWS).to_string();
    for part in ["0 bindings behind manifest-", ROWS, &bytes, "all are good"] {
        assert!(shown.contains(part), "no {part:?} in:\n{shown}");
    }
    // Without the checkpoints all is behind them.
    let kept = folder.path("state/detections");
    for entry in std::fs::read_dir(kept).unwrap() {
        let path = entry.unwrap().path();
        if path.to_str().unwrap().contains("/manifest-") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let shown = show(&[]).stdout.join("\n");
    assert!(shown.contains(" bindings and no checkpoint"), "{shown}");

    for name in [BINDINGS, "joined.jsonl.progress"] {
        let good = std::fs::read(folder.path(name)).unwrap();
        let mut damaged = good.clone();
        // Within the first record.
        damaged[40] ^= 1;
        folder.write(name, damaged);
        let outcome = show(&["--verify"]);
        outcome.assert_code(1);
        let said = outcome.stderr.join("\n");
        assert!(said.contains("1 faults"), "{name}: {said}");
        assert!(said.contains(name) && said.contains("checksum"), "{said}");
        folder.write(name, good);
    }
    show(&["--verify"]).assert_code(0);
}
