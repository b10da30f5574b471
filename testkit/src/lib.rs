//! What tests and benchmarks share: a real Kafka broker, independent readers, recomputation.
