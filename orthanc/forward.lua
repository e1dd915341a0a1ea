-- Sends every stable, original MR series to the super-resolution node, and never its own results.
--
-- Orthanc runs OnStableSeries once no instance has arrived for StableAge seconds. The section
-- "Mrisr" of Orthanc's configuration says where to send and how results are known:
--   Target           name of the receiver in DicomModalities
--   ResultAet        AE title under which the node itself stores
--   ResultEquipment  ManufacturerModelName of the node's item in Contributing Equipment
--
-- The event is lost when Orthanc stops before a series is stable, and a failed job is not repeated
-- by Orthanc: the node's reconcile sweep finds such series. It looks at nothing decided here.

local options = GetOrthancConfiguration()['Mrisr'] or {}
local target = options['Target'] or 'mrisr'
local resultAet = options['ResultAet'] or 'MRISR'
local resultEquipment = options['ResultEquipment'] or 'mrisr_node'

-- Whether the node has had a hand in this instance (Contributing Equipment, PS3.3 C.12.1).
local function isOurs(tags)
  for _, equipment in pairs(tags['ContributingEquipmentSequence'] or {}) do
    if equipment['ManufacturerModelName'] == resultEquipment
      or equipment['Manufacturer'] == resultEquipment then
      return true
    end
  end
  return false
end

-- The reason for which an instance is nothing for the node, or nil.
local function reasonOf(instance)
  local tags = ParseJson(RestApiGet('/instances/' .. instance .. '/simplified-tags', true))
  if isOurs(tags) then
    return 'a result of the node'
  end
  -- Image Type's first value (PS3.3 C.7.6.1.1.2): DERIVED pixels are no acquisition.
  if string.match(tags['ImageType'] or '', '^%s*DERIVED') then
    return 'derived'
  end
  return nil
end

-- The reason for which a series stays where it is, or nil.
local function reasonToStay(series, metadata)
  if series['MainDicomTags']['Modality'] ~= 'MR' then
    return 'not MR'
  end
  if metadata['RemoteAET'] == resultAet then
    return 'sent by ' .. resultAet
  end
  local instances = series['Instances']
  -- A series may be mixed: it stays only where the first, the middle and the last one say so.
  local middle = math.floor(#instances / 2) + 1
  return reasonOf(instances[1]) and reasonOf(instances[middle]) and reasonOf(instances[#instances])
end

function OnStableSeries(seriesId, _, metadata)
  local series = ParseJson(RestApiGet('/series/' .. seriesId, true))
  local reason = reasonToStay(series, metadata)
  if reason then
    print('series ' .. seriesId .. ' stays: ' .. reason)
    return
  end
  local order = {}
  order['Resources'] = { seriesId }
  order['Asynchronous'] = true
  -- One instance of a class that the node does not take must not keep the others back; the sweep
  -- sees what is missing.
  order['Permissive'] = true
  local answer = RestApiPost('/modalities/' .. target .. '/store', DumpJson(order, true), true)
  local job = answer and ParseJson(answer)['ID'] or 'refused'
  print('series ' .. seriesId .. ' with ' .. #series['Instances'] .. ' instances goes to '
    .. target .. ', job ' .. job)
end

function OnJobFailure(jobId)
  print('job ' .. jobId .. ' failed; see /jobs/' .. jobId)
end
