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

constexpr char kMethod[] = "/callboard.interop.Echo/Call";
constexpr std::chrono::seconds kDeadline(5);
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

std::string Object(const std::map<std::string, int>& counts) {
  std::string object = "{";
  for (const auto& [key, count] : counts) {
    if (object.size() > 1) object += ',';
    object += Quote(key) + ':' + std::to_string(count);
  }
  return object + '}';
}

// Counts of the calls that each backend answered and of each error, and the number of calls in flight.
class Results {
 public:
  void Begin() {
    std::lock_guard<std::mutex> lock(mutex_);
    ++in_flight_;
  }

  void End(const grpc::Status& status, const std::string& backend) {
    std::lock_guard<std::mutex> lock(mutex_);
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

  void Print(const char* event) {
    std::lock_guard<std::mutex> lock(mutex_);
    std::cout << "{\"event\":\"" << event << "\",\"backends\":" << Object(backends_)
              << ",\"errors\":" << Object(errors_) << '}' << std::endl;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int in_flight_ = 0;
  std::map<std::string, int> backends_;
  std::map<std::string, int> errors_;
};

std::string Text(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string text;
  if (!buffer.Dump(&slices).ok()) return text;
  for (const auto& slice : slices) text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return text;
}

// Starts a call. `results` counts it, and lives until it ends.
void StartCall(grpc::GenericStub& stub, std::shared_ptr<Results> results) {
  struct Call {
    grpc::ClientContext context;
    grpc::ByteBuffer request;
    grpc::ByteBuffer response;
  };
  auto call = std::make_shared<Call>();
  grpc::Slice empty;
  call->request = grpc::ByteBuffer(&empty, 1);
  call->context.set_deadline(std::chrono::system_clock::now() + kDeadline);
  results->Begin();
  stub.UnaryCall(&call->context, kMethod, {}, &call->request, &call->response, [call, results](grpc::Status status) {
    results->End(status, status.ok() ? Text(call->response) : std::string());
  });
}

// Background load at a fixed rate, however long the calls take.
class Load {
 public:
  Load(grpc::GenericStub& stub, double rate) : thread_([this, &stub, rate] { Run(stub, rate); }) {}

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
  void Run(grpc::GenericStub& stub, double rate) {
    auto period = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(1 / rate));
    std::unique_lock<std::mutex> lock(mutex_);
    for (auto next = Clock::now();; next += period) {
      if (changed_.wait_until(lock, next, [this] { return stopped_; })) return;
      StartCall(stub, results_);
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
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    std::string command;
    words >> command;
    double rate = 0;
    int total = 0;
    int parallel = 0;
    if (command == "call" && words >> total >> parallel && parallel > 0) {
      auto results = std::make_shared<Results>();
      for (int call = 0; call < total; ++call) {
        results->AwaitFewerThan(parallel);
        StartCall(stub, results);
      }
      results->AwaitFewerThan(1);
      results->Print("called");
    } else if (command == "start" && words >> rate && rate > 0) {
      load = std::make_unique<Load>(stub, rate);
    } else if (command == "stats" && load) {
      load->results()->Print("stats");
    } else if (command == "stop" && load) {
      auto results = load->results();
      load.reset();
      results->Print("stopped");
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
