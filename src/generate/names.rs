//! The words of the case: what a camera sees, and how locations are called.
//!
//! Apart from the plan, because these are lists and taste; the plan only picks by number. Names
//! hold what often breaks a pipeline: commas, quotes, letters beyond ASCII.
//!
//! # Invariants
//! * Item names need no escape in JSON, so that records are written by copying bytes.

const SUBJECTS: [&str; 10] = [
    "person walking",
    "person with a dog",
    "group of people",
    "bicycle",
    "scooter",
    "passenger car",
    "delivery van",
    "heavy truck",
    "city bus",
    "motorcycle",
];

const COLOURS: [&str; 10] = [
    "black",
    "white",
    "grey",
    "silver",
    "dark blue",
    "red",
    "brown",
    "green",
    "yellow",
    "orange",
];

const MOTIONS: [&str; 10] = [
    "moving north in lane 1",
    "moving south in lane 2",
    "moving east in lane 3",
    "moving west in lane 4",
    "turning left at lights",
    "turning right at lights",
    "stopped on the crossing",
    "parked at the kerb",
    "waiting for green light",
    "leaving the frame east",
];

/// How many different item names there are.
pub(super) const ITEMS: u64 = 1_000;

/// All item names, the most frequent first.
pub(super) fn items() -> Vec<String> {
    let mut items = Vec::with_capacity(SUBJECTS.len() * COLOURS.len() * MOTIONS.len());
    for motion in MOTIONS {
        for colour in COLOURS {
            for subject in SUBJECTS {
                items.push(format!("{subject}, {colour}, {motion}"));
            }
        }
    }
    items
}

/// What the location of this number is called.
pub(super) fn location(oid: u64) -> String {
    match oid % 16 {
        5 => format!("Location {oid:05}, \"Old Gate\", north side"),
        11 => format!("Location {oid:05}, Caf\u{e9} am Stra\u{df}eneck \u{2192} 3"),
        _ => format!("Location {oid:05}, Main Street"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn item_names_are_as_many_as_said_and_need_no_escape() {
        let items = items();
        assert_eq!(items.len() as u64, ITEMS);
        for item in items {
            assert_eq!(serde_json::to_string(&item).unwrap(), format!("\"{item}\""));
        }
    }
}
