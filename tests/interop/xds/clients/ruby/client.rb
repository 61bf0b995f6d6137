# frozen_string_literal: true

# A program of the gem grpc that knows nothing of Callboard. It takes commands on stdin, one a line, and prints JSON lines. The
# README of the suites has the commands.

require 'grpc'
require 'json'

MAX_ERROR_TEXT = 200
MAX_ERRORS = 20

BYTES = ->(message) { message }
CODES = GRPC::Core::StatusCodes.constants.to_h { |name| [GRPC::Core::StatusCodes.const_get(name), name] }

$stdout.sync = true

def emit(line)
  puts JSON.generate(line)
end

def now
  Process.clock_gettime(Process::CLOCK_MONOTONIC)
end

# Settings of the calls of a command.
class Settings
  attr_reader :method, :deadline, :headers

  def initialize(options)
    @method = '/callboard.interop.Echo/Call'
    @deadline = 5.0
    @headers = {}
    options.each { |option| set(*option.split('=', 2)) }
  end

  private

  def set(name, value)
    case name
    when 'method' then @method = value
    when 'deadline' then @deadline = Integer(value) / 1000.0
    when 'header'
      header, content = value.split(':', 2)
      @headers[header] = content
    else raise "invalid option \"#{name}\""
    end
  end
end

# Calls by backend, and failed calls by error, with their times.
class Tally
  def initialize
    @lock = Mutex.new
    @backends = Hash.new(0)
    @errors = Hash.new(0)
    @times = Hash.new { |times, backend| times[backend] = [] } # milliseconds
  end

  # Makes a call, and counts it.
  def call(stub, settings)
    count do
      deadline = Time.now + settings.deadline
      stub.request_response(settings.method, '', BYTES, BYTES, deadline:, metadata: settings.headers)
    end
  end

  # Opens a stream, and counts it with its first response. Returns what ends the stream.
  def open_stream(stub, settings)
    stream = stub.server_streamer(settings.method, '', BYTES, BYTES, return_op: true, metadata: settings.headers)
    responses = [].each
    count { (responses = stream.execute).next }
    lambda do
      stream.cancel
      responses.next
    rescue StopIteration, GRPC::BadStatus
      # The status has been read; before, the stream counts as open.
    end
  end

  def print(event, **more)
    @lock.synchronize { emit(event:, backends: @backends, errors: @errors, **more) }
  end

  def print_with_times(event)
    print(event, ms: @times)
  end

  private

  # Counts what the block returns, the id of a backend, or raises.
  def count
    began = now
    backend = yield
    @lock.synchronize do
      @backends[backend] += 1
      @times[backend] << milliseconds_since(began)
    end
  rescue GRPC::BadStatus => e
    @lock.synchronize { @times['failed'] << milliseconds_since(began) }
    add_error("#{CODES[e.code]}: #{e.details}"[...MAX_ERROR_TEXT])
  end

  def milliseconds_since(began)
    ((now - began) * 1000).round(3)
  end

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

  def initialize(stub, rate, settings)
    @tally = Tally.new
    @running = true
    @thread = Thread.new { run(stub, 1.0 / rate, settings) }
  end

  def stop
    @running = false
    @thread.join
  end

  private

  def run(stub, interval, settings)
    callers = Callers.new
    due = now
    while @running
      callers.add { @tally.call(stub, settings) }
      due += interval
      sleep([due - now, 0].max)
    end
    callers.finish
  end
end

def call_many(stub, calls, parallel, settings)
  tally = Tally.new
  tokens = Queue.new([true] * calls)
  tokens.close
  Array.new(parallel) { Thread.new { tally.call(stub, settings) while tokens.pop } }.each(&:join)
  tally.print_with_times('called')
end

# Opens streams one after the other, each after the first response of the one before.
def park(stub, count, settings)
  tally = Tally.new
  streams = Array.new(count) { tally.open_stream(stub, settings) }
  tally.print_with_times('parked')
  streams
end

# Runs the commands of stdin until `quit` or its end.
def run(stub)
  load = nil
  streams = []
  while (line = $stdin.gets)
    case line.split
    in ['call', calls, parallel, *options] then call_many(stub, Integer(calls), Integer(parallel), Settings.new(options))
    in ['park', count, *options] then streams += park(stub, Integer(count), Settings.new(options))
    in ['unpark']
      streams.each(&:call)
      streams = []
      Tally.new.print('unparked')
    in ['start', rate, *options] unless load then load = Load.new(stub, Integer(rate), Settings.new(options))
    in ['stats'] if load then load.tally.print('stats')
    in ['stop'] if load
      load.stop
      load.tally.print_with_times('stopped')
      load = nil
    in ['quit'] then break
    end
  end
end

Thread.abort_on_exception = true
stub = GRPC::ClientStub.new(ARGV.fetch(0), :this_channel_is_insecure)
emit(event: 'ready', client: "grpc for Ruby #{GRPC::VERSION}")
run(stub)
