# frozen_string_literal: true

# A program of the gem grpc that knows nothing of Callboard. It takes commands on stdin, one a line, and prints JSON lines. The
# README of the suites has the commands.

require 'grpc'
require 'json'

METHOD = '/callboard.interop.Echo/Call'
CALL_TIMEOUT = 5
MAX_ERROR_TEXT = 200
MAX_ERRORS = 20

BYTES = ->(message) { message }
CODES = GRPC::Core::StatusCodes.constants.to_h { |name| [GRPC::Core::StatusCodes.const_get(name), name] }

$stdout.sync = true

def emit(line)
  puts JSON.generate(line)
end

# Calls by backend, and failed calls by error.
class Tally
  def initialize
    @lock = Mutex.new
    @backends = Hash.new(0)
    @errors = Hash.new(0)
  end

  # Makes a call, and counts it.
  def call(stub)
    backend = stub.request_response(METHOD, '', BYTES, BYTES, deadline: Time.now + CALL_TIMEOUT)
    @lock.synchronize { @backends[backend] += 1 }
  rescue GRPC::BadStatus => e
    add_error("#{CODES[e.code]}: #{e.details}"[...MAX_ERROR_TEXT])
  end

  def print(event)
    @lock.synchronize { emit(event:, backends: @backends, errors: @errors) }
  end

  private

  def add_error(text)
    @lock.synchronize { @errors[text] += 1 if @errors.key?(text) || @errors.size < MAX_ERRORS }
  end
end

# Threads that run calls. A thread is added when none is idle.
class Callers
  def initialize
    @jobs = Queue.new
    @threads = []
  end

  def add(&call)
    @threads << Thread.new { work } if @jobs.num_waiting <= @jobs.size
    @jobs << call
  end

  # Waits until all calls have ended.
  def finish
    @jobs.close
    @threads.each(&:join)
  end

  private

  def work
    while (call = @jobs.pop)
      call.call
    end
  end
end

# A background load of a fixed rate.
class Load
  attr_reader :tally

  def initialize(stub, rate)
    @tally = Tally.new
    @running = true
    @thread = Thread.new { run(stub, 1.0 / rate) }
  end

  def stop
    @running = false
    @thread.join
  end

  private

  def run(stub, interval)
    callers = Callers.new
    due = now
    while @running
      callers.add { @tally.call(stub) }
      due += interval
      sleep([due - now, 0].max)
    end
    callers.finish
  end

  def now
    Process.clock_gettime(Process::CLOCK_MONOTONIC)
  end
end

def call_many(stub, calls, parallel)
  tally = Tally.new
  tokens = Queue.new([true] * calls)
  tokens.close
  Array.new(parallel) { Thread.new { tally.call(stub) while tokens.pop } }.each(&:join)
  tally.print('called')
end

# Runs the commands of stdin until `quit` or its end.
def run(stub)
  load = nil
  while (line = $stdin.gets)
    case line.split
    in ['call', calls, parallel] then call_many(stub, Integer(calls), Integer(parallel))
    in ['start', rate] unless load then load = Load.new(stub, Integer(rate))
    in ['stats'] if load then load.tally.print('stats')
    in ['stop'] if load
      load.stop
      load.tally.print('stopped')
      load = nil
    in ['quit'] then break
    end
  end
end

Thread.abort_on_exception = true
stub = GRPC::ClientStub.new(ARGV.fetch(0), :this_channel_is_insecure)
emit(event: 'ready', client: "grpc for Ruby #{GRPC::VERSION}")
run(stub)
