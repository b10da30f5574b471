//! A real Apache Kafka, broker and controller in one process, for the time of a test binary.
//!
//! Real, because what the tests are about (transactions, fencing, offsets, restarts) is the
//! broker's own behaviour. Starting one takes seconds, so tests share one and have topics of
//! their own, unless they kill it.
//!
//! # Invariants
//! * It listens on 127.0.0.1 only, on the same two ports for all its life.
//! * Topics exist only when they were created: `auto.create.topics.enable` is off.
//! * Process and folder are gone when it is dropped, or when the test process ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;

use crate::process::{Process, Signal, Usage};
use crate::read::{ConsoleReader, TopicRecord, Until, read_all};
use crate::wait::{block_on, wait_until};
use crate::{free_ports, reaper};

mod install;
mod security;

pub use security::Login;
use security::Security;

/// A start takes 2 to 5 s on a quiet machine, three times that on a busy one.
const START: Duration = Duration::from_secs(90);

/// A broker and its data.
#[derive(Debug)]
pub struct Broker {
    jars: PathBuf,
    folder: PathBuf,
    port: u16,
    security: Option<Security>,
    process: Mutex<Option<Process>>,
}

impl Broker {
    /// Starts a broker without security.
    ///
    /// # Panics
    /// If Kafka cannot be fetched or started.
    pub fn start() -> Self {
        Self::start_with(|_| None, "")
    }

    /// Starts a broker that takes clients by TLS with SCRAM-SHA-512 only, and minds ACLs.
    ///
    /// # Panics
    /// As `start`, and if `openssl` is missing.
    pub fn start_secure() -> Self {
        let broker = Self::start_with(|folder| Some(Security::make(folder)), "");
        let admin = broker
            .java_properties(Login::Admin)
            .expect("the broker is secure");
        Security::allow_job(&broker.jars, &broker.bootstrap(), &admin);
        broker
    }

    /// The plain broker that the tests of this binary share.
    ///
    /// # Panics
    /// As `start`.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts a broker with these settings besides.
    ///
    /// # Panics
    /// As `start`.
    pub fn configured(settings: &[(&str, &str)]) -> Self {
        let lines = settings
            .iter()
            .map(|(name, value)| format!("{name}={value}\n"));
        Self::start_with(|_| None, &lines.collect::<String>())
    }

    fn start_with(security: impl FnOnce(&Path) -> Option<Security>, settings: &str) -> Self {
        let jars = install::jars();
        let folder = tempfile::Builder::new()
            .prefix("deltajoin-kafka-")
            .tempdir();
        let folder = folder
            .expect("the folder of temporary files can be written to")
            .keep();
        reaper::remove_at_end(&folder);
        let security = security(&folder);
        let ports = free_ports(2);
        let properties =
            server_properties(&folder, ports[0], ports[1], security.as_ref()) + settings;
        fs::write(folder.join("server.properties"), properties).expect("the folder is ours");
        let broker = Self {
            jars,
            folder,
            port: ports[0],
            security,
            process: Mutex::new(None),
        };
        broker.format();
        broker.restart();
        broker
    }

    /// `bootstrap.servers` for clients.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What a librdkafka client must set besides `bootstrap.servers`: nothing for a plain broker.
    pub fn client_properties(&self, login: Login) -> Vec<(String, String)> {
        self.security
            .as_ref()
            .map_or_else(Vec::new, |security| security.client_properties(login))
    }

    /// The settings of a librdkafka client that may do everything.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap());
        for (name, value) in self.client_properties(Login::Admin) {
            config.set(name, value);
        }
        config
    }

    /// An admin client that may do everything; its futures are for `block_on`.
    pub fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client()
            .create()
            .expect("the settings are those of a client")
    }

    /// Creates a topic and waits until its partitions can be used.
    ///
    /// # Panics
    /// If there is a topic of that name.
    pub fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in configs {
            topic = topic.set(key, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(START));
        let admin = self.admin();
        let create = || {
            let results = block_on(admin.create_topics([&topic], &options));
            let result = results.expect("the broker answers").pop();
            match result.expect("one topic was asked for") {
                Ok(_) => true,
                // It does not count while it is fenced.
                Err((_, RDKafkaErrorCode::InvalidReplicationFactor)) => false,
                Err((name, error)) => panic!("cannot create topic {name}: {error}"),
            }
        };
        wait_until(&format!("topic {name}"), START, create);
        self.wait_for_partitions(name, partitions);
    }

    /// Deletes a topic, and waits until it is gone.
    ///
    /// # Panics
    /// If there is no topic of that name.
    pub fn delete_topic(&self, name: &str) {
        let options = AdminOptions::new().operation_timeout(Some(START));
        let results = block_on(self.admin().delete_topics(&[name], &options));
        for result in results.expect("the broker answers") {
            result.unwrap_or_else(|(name, error)| panic!("cannot delete topic {name}: {error}"));
        }
        let consumer: BaseConsumer = self.client().create().expect("a consumer");
        wait_until(&format!("the end of {name}"), START, || {
            let metadata = consumer.fetch_metadata(Some(name), Duration::from_secs(5));
            metadata.is_ok_and(|metadata| metadata.topics()[0].error().is_some())
        });
    }

    /// Waits until a topic has so many partitions, all of which can be used.
    pub fn wait_for_partitions(&self, name: &str, partitions: i32) {
        let wanted = usize::try_from(partitions).expect("a number of partitions");
        wait_until(&format!("the partitions of {name}"), START, || {
            // One that was told of no brokers may look for none any more.
            let consumer: BaseConsumer = self.client().create().expect("a consumer");
            let metadata = consumer.fetch_metadata(Some(name), Duration::from_secs(5));
            metadata.is_ok_and(|metadata| {
                let partitions = metadata.topics()[0].partitions();
                partitions.len() == wanted && partitions.iter().all(|one| one.leader() >= 0)
            })
        });
    }

    /// Takes at most so many bytes a second from each producer, whose requests are answered late
    /// if they have more.
    pub fn slow_down(&self, bytes_per_second: u32) {
        let mut command = install::java(&self.jars, 256, "kafka.admin.ConfigCommand");
        command
            .args(["--bootstrap-server", &self.bootstrap(), "--alter"])
            .args(["--entity-type", "clients", "--entity-default"])
            .arg("--add-config")
            .arg(format!("producer_byte_rate={bytes_per_second}"));
        install::run(&mut command);
    }

    /// Takes the right to write to a topic away from `Login::Job`.
    ///
    /// # Panics
    /// If the broker is a plain one.
    pub fn forbid_writing(&self, topic: &str) {
        let admin = self.java_properties(Login::Admin);
        let admin = admin.expect("a plain broker minds no rights");
        Security::forbid_writing(&self.jars, &self.bootstrap(), &admin, topic);
    }

    /// Kills it as a power failure would.
    pub fn kill(&self) {
        *self.process() = None;
    }

    /// Starts it again, killing it before if it runs: same ports, same data.
    ///
    /// # Panics
    /// If it does not answer in time; shows the end of its log.
    pub fn restart(&self) {
        self.kill();
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log());
        let log = log.expect("the folder is ours");
        let mut command = install::java(&self.jars, 512, "kafka.Kafka");
        command
            .arg(self.folder.join("server.properties"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of an open file"))
            .stderr(log);
        *self.process() = Some(Process::spawn(&mut command));
        let client: BaseConsumer = self.client().create().expect("a consumer");
        wait_until("the broker's first answer", START, || {
            let ended = self.process().as_mut().and_then(Process::try_wait);
            assert!(
                ended.is_none(),
                "the broker has ended at its start:\n{}",
                self.log_end()
            );
            let metadata = client.fetch_metadata(None, Duration::from_millis(500));
            metadata.is_ok_and(|metadata| !metadata.brokers().is_empty())
        });
    }

    /// Freezes it: connections stay open, and nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::Stop);
    }

    /// Goes on after `pause`.
    pub fn resume(&self) {
        self.signal(Signal::Continue);
    }

    fn signal(&self, signal: Signal) {
        self.process()
            .as_mut()
            .expect("the broker runs")
            .signal(signal);
    }

    /// The number of its process.
    ///
    /// # Panics
    /// If it is killed.
    pub fn pid(&self) -> u32 {
        self.process().as_ref().expect("the broker runs").pid()
    }

    /// What its process uses and has used.
    ///
    /// # Panics
    /// If it does not run.
    pub fn usage(&self) -> Usage {
        let process = self.process();
        process.as_ref().expect("the broker runs").usage()
    }

    /// Reads a topic from its beginning with Kafka's own console consumer, which sees committed
    /// records only.
    pub fn console(&self, topic: &str, until: Until) -> ConsoleReader {
        let class = "org.apache.kafka.tools.consumer.ConsoleConsumer";
        let mut command = install::java(&self.jars, 512, class);
        command.args(["--bootstrap-server", &self.bootstrap(), "--topic", topic]);
        if let Some(properties) = self.java_properties(Login::Admin) {
            command.arg("--consumer.config").arg(properties);
        }
        ConsoleReader::start(command, until)
    }

    /// What Kafka's own tool for consumer groups prints, as the words of its lines.
    ///
    /// # Panics
    /// If the tool fails.
    pub fn consumer_groups(&self, arguments: &[&str]) -> Vec<Vec<String>> {
        let class = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
        let mut command = install::java(&self.jars, 256, class);
        command.args(["--bootstrap-server", &self.bootstrap()]);
        if let Some(properties) = self.java_properties(Login::Admin) {
            command.arg("--command-config").arg(properties);
        }
        let output = command.args(arguments).output();
        let output = output.expect("Java can be started");
        let text = String::from_utf8_lossy(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}\n{said}");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        text.lines().map(words).collect()
    }

    /// Reads what a topic holds at the moment, committed records only, with librdkafka: quicker,
    /// where independence does not matter. `visit` sees each partition in order.
    pub fn read(&self, topic: &str, visit: impl FnMut(TopicRecord)) {
        read_all(&self.client(), topic, visit);
    }

    /// The file with the settings of a Java client; none is needed for a plain broker.
    fn java_properties(&self, login: Login) -> Option<PathBuf> {
        let security = self.security.as_ref()?;
        let path = self.folder.join(format!("{login:?}.properties"));
        fs::write(&path, security.java_properties(login)).expect("the folder is ours");
        Some(path)
    }

    fn format(&self) {
        // Any 16 bytes in base64: one cluster is as good as another.
        let cluster = "ZGVsdGFqb2luLXRlc3RraQ";
        let mut command = install::java(&self.jars, 256, "kafka.tools.StorageTool");
        command
            .args(["format", "-t", cluster, "-c"])
            .arg(self.folder.join("server.properties"));
        if self.security.is_some() {
            command.args(Security::format_arguments());
        }
        install::run(&mut command);
    }

    fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    fn log_end(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        // If it fails, the reaper tries again.
        if fs::remove_dir_all(&self.folder).is_ok() {
            reaper::keep(&self.folder);
        }
    }
}

fn server_properties(
    folder: &Path,
    port: u16,
    controller_port: u16,
    security: Option<&Security>,
) -> String {
    let protocol = if security.is_some() {
        "SASL_SSL"
    } else {
        "PLAINTEXT"
    };
    let extra = security
        .map(Security::server_properties)
        .unwrap_or_default();
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller_port}\n\
         listeners=CLIENTS://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}\n\
         advertised.listeners=CLIENTS://127.0.0.1:{port}\n\
         controller.listener.names=CONTROLLER\n\
         inter.broker.listener.name=CLIENTS\n\
         listener.security.protocol.map=CLIENTS:{protocol},CONTROLLER:PLAINTEXT\n\
         log.dirs={}\n\
         auto.create.topics.enable=false\n\
         offsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         transaction.state.log.num.partitions=4\n\
         share.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\n\
         log.cleaner.dedupe.buffer.size=8388608\n\
         broker.session.timeout.ms=1500\n\
         broker.heartbeat.interval.ms=300\n\
         {extra}",
        folder.join("log").display(),
    )
}
