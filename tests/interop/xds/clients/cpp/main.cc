// gRPC client on C-core's C++ library for the interop suite, driven by lines on stdin.

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxErrorBytes = 200;
constexpr size_t kMaxErrors = 20;

const char* CodeName(grpc::StatusCode code) {
  static constexpr const char* kNames[] = {
      "OK",             "CANCELLED",         "UNKNOWN",             "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
      "NOT_FOUND",      "ALREADY_EXISTS",    "PERMISSION_DENIED",   "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
      "ABORTED",        "OUT_OF_RANGE",      "UNIMPLEMENTED",       "INTERNAL",           "UNAVAILABLE",
      "DATA_LOSS",      "UNAUTHENTICATED"};
  auto index = static_cast<size_t>(code);
  return index < std::size(kNames) ? kNames[index] : "UNKNOWN";
}

// JSON string. Bytes that are not printable ASCII become question marks, so that a cut text stays valid.
std::string Quote(const std::string& text) {
  std::string quoted = "\"";
  for (char byte : text) {
    if (byte == '"' || byte == '\\') quoted += '\\';
    quoted += byte >= 0x20 && byte < 0x7f ? byte : '?';
  }
  return quoted + '"';
}

std::string Value(int count) { return std::to_string(count); }

std::string Value(const std::vector<double>& times) {
  std::string array = "[";
  for (double time : times) array += (array.size() > 1 ? "," : "") + std::to_string(time);
  return array + ']';
}

template <typename T>
std::string Object(const std::map<std::string, T>& values) {
  std::string object = "{";
  for (const auto& [key, value] : values) {
    if (object.size() > 1) object += ',';
    object += Quote(key) + ':' + Value(value);
  }
  return object + '}';
}

// Settings of the calls of a command.
struct Settings {
  std::string method = "/callboard.interop.Echo/Call";
  std::chrono::milliseconds deadline{5000};
  std::vector<std::pair<std::string, std::string>> headers;

  void AddHeaders(grpc::ClientContext& context) const {
    for (const auto& [name, value] : headers) context.AddMetadata(name, value);
  }
};

// Parses the rest of the words. Returns false if one is no option.
bool Parse(std::istringstream& words, Settings& settings) {
  std::string option;
  while (words >> option) {
    std::string name = option.substr(0, option.find('='));
    std::string value = option.substr(std::min(option.size(), name.size() + 1));
    if (name == "method") {
      settings.method = value;
    } else if (name == "deadline") {
      settings.deadline = std::chrono::milliseconds(std::stoi(value));
    } else if (size_t colon = value.find(':'); name == "header" && colon != std::string::npos) {
      settings.headers.emplace_back(value.substr(0, colon), value.substr(colon + 1));
    } else {
      return false;
    }
  }
  return true;
}

// Counts of the calls that each backend answered and of each error, their times, and the number of calls in flight.
class Results {
 public:
  void Begin() {
    std::lock_guard<std::mutex> lock(mutex_);
    ++in_flight_;
  }

  void End(Clock::time_point began, const grpc::Status& status, const std::string& backend) {
    std::lock_guard<std::mutex> lock(mutex_);
    std::chrono::duration<double, std::milli> took = Clock::now() - began;
    times_[status.ok() ? backend : "failed"].push_back(took.count());
    if (status.ok()) {
      ++backends_[backend];
    } else {
      std::string text = std::string(CodeName(status.error_code())) + ": " + status.error_message();
      text.resize(std::min(text.size(), kMaxErrorBytes));
      if (errors_.size() >= kMaxErrors && errors_.count(text) == 0) text = "others";
      ++errors_[text];
    }
    --in_flight_;
    changed_.notify_all();
  }

  void AwaitFewerThan(int limit) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return in_flight_ < limit; });
  }

  void Print(const char* event, bool with_times) {
    std::lock_guard<std::mutex> lock(mutex_);
    std::cout << "{\"event\":\"" << event << "\",\"backends\":" << Object(backends_)
              << ",\"errors\":" << Object(errors_);
    if (with_times) std::cout << ",\"ms\":" << Object(times_);
    std::cout << '}' << std::endl;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int in_flight_ = 0;
  std::map<std::string, int> backends_;
  std::map<std::string, int> errors_;
  std::map<std::string, std::vector<double>> times_;  // milliseconds, by backend
};

std::string Text(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string text;
  if (!buffer.Dump(&slices).ok()) return text;
  for (const auto& slice : slices) text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return text;
}

// Starts a call. `results` counts it, and lives until it ends.
void StartCall(grpc::GenericStub& stub, const Settings& settings, std::shared_ptr<Results> results) {
  struct Call {
    grpc::ClientContext context;
    grpc::ByteBuffer request;
    grpc::ByteBuffer response;
  };
  auto call = std::make_shared<Call>();
  grpc::Slice empty;
  call->request = grpc::ByteBuffer(&empty, 1);
  call->context.set_deadline(std::chrono::system_clock::now() + settings.deadline);
  settings.AddHeaders(call->context);
  results->Begin();
  auto ended = [call, results, began = Clock::now()](grpc::Status status) {
    results->End(began, status, status.ok() ? Text(call->response) : std::string());
  };
  stub.UnaryCall(&call->context, settings.method, {}, &call->request, &call->response, ended);
}

// Open stream. `results` counts it with its first response, or with its end.
class ParkedStream : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  ParkedStream(grpc::GenericStub& stub, const Settings& settings, std::shared_ptr<Results> results) : results_(results) {
    grpc::Slice empty;
    request_ = grpc::ByteBuffer(&empty, 1);
    settings.AddHeaders(context_);
    results_->Begin();
    stub.PrepareBidiStreamingCall(&context_, settings.method, {}, this);
    StartWriteLast(&request_, {});
    StartRead(&response_);
    StartCall();
  }

  // Cancels the stream, and waits for its end.
  ~ParkedStream() override {
    context_.TryCancel();
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return done_; });
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return;
    answered_ = true;
    results_->End(began_, grpc::Status::OK, Text(response_));
  }

  void OnDone(const grpc::Status& status) override {
    if (!answered_) results_->End(began_, status, std::string());
    std::lock_guard<std::mutex> lock(mutex_);
    done_ = true;
    changed_.notify_all();
  }

  std::shared_ptr<Results> results_;
  grpc::ClientContext context_;
  grpc::ByteBuffer request_;
  grpc::ByteBuffer response_;
  Clock::time_point began_ = Clock::now();
  bool answered_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
};

// Background load at a fixed rate, however long the calls take.
class Load {
 public:
  Load(grpc::GenericStub& stub, double rate, const Settings& settings)
      : thread_([this, &stub, rate, settings] { Run(stub, rate, settings); }) {}

  ~Load() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
    thread_.join();
    results_->AwaitFewerThan(1);
  }

  std::shared_ptr<Results> results() const { return results_; }

 private:
  void Run(grpc::GenericStub& stub, double rate, const Settings& settings) {
    auto period = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(1 / rate));
    std::unique_lock<std::mutex> lock(mutex_);
    for (auto next = Clock::now();; next += period) {
      if (changed_.wait_until(lock, next, [this] { return stopped_; })) return;
      StartCall(stub, settings, results_);
    }
  }

  std::shared_ptr<Results> results_ = std::make_shared<Results>();
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopped_ = false;
  std::thread thread_;  // The last member, because it uses the others.
};

// Reads commands until `quit` or the end of stdin. Returns the exit code.
int Serve(grpc::GenericStub& stub) {
  std::unique_ptr<Load> load;
  std::vector<std::unique_ptr<ParkedStream>> parked;
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    std::string command;
    words >> command;
    double rate = 0;
    int total = 0;
    int parallel = 0;
    Settings settings;
    auto results = std::make_shared<Results>();
    if (command == "call" && words >> total >> parallel && parallel > 0 && Parse(words, settings)) {
      for (int call = 0; call < total; ++call) {
        results->AwaitFewerThan(parallel);
        StartCall(stub, settings, results);
      }
      results->AwaitFewerThan(1);
      results->Print("called", true);
    } else if (command == "park" && words >> total && Parse(words, settings)) {
      // Each after the first response of the one before.
      for (int stream = 0; stream < total; ++stream) {
        parked.push_back(std::make_unique<ParkedStream>(stub, settings, results));
        results->AwaitFewerThan(1);
      }
      results->Print("parked", true);
    } else if (command == "unpark") {
      parked.clear();
      results->Print("unparked", false);
    } else if (command == "start" && words >> rate && rate > 0 && Parse(words, settings)) {
      load = std::make_unique<Load>(stub, rate, settings);
    } else if (command == "stats" && load) {
      load->results()->Print("stats", false);
    } else if (command == "stop" && load) {
      results = load->results();
      load.reset();
      results->Print("stopped", true);
    } else if (command == "quit") {
      return 0;
    } else {
      std::cerr << "unexpected command: " << line << std::endl;
      return 1;
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: client TARGET" << std::endl;
    return 2;
  }
  grpc::GenericStub stub(grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials()));
  std::cout << "{\"event\":\"ready\",\"client\":" << Quote("grpc++ " + grpc::Version()) << '}' << std::endl;
  return Serve(stub);
}
